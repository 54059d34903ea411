"""What is minimised where networks learn: losses alone, without loops, files or Ray."""
