"""Measured speed, side by side: ``python -m benchmarks [NAME ...] [--quick]``. See README.md."""
