"""Degrade, solve and score a batch of images; knows nothing of Ray."""
