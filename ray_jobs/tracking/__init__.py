"""Runs in MLflow: the store, what a run is called there, its times, and what a person sees first."""
