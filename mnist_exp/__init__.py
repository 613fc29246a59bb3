"""A config-driven experiment runner for image classification with Keras, Hydra and MLflow."""

__version__ = "0.1.0"
