"""Cross-model consensus of explanations for image classifiers (Li et al., Machine Learning 2023)."""

__version__ = "0.1.0"
