"""The evaluation pipeline: read (CPU tasks), then degrade, solve, score and persist (one actor stage)."""
