"""Stages, experiments, and what MLflow is told of them."""
