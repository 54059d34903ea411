"""The pipeline of all kinds of runs: read (CPU tasks), then do the work, score and persist (one actor stage)."""
