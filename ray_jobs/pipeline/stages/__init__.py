"""The stages of the Ray Data pipeline."""
