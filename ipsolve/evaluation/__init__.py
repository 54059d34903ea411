"""Degrade, solve and score a batch of images; knows nothing of Ray."""

from ipsolve.evaluation.evaluator import Evaluator, evaluate

__all__ = ["Evaluator", "evaluate"]
