"""Metrics: pure functions from predictions and references to numbers; nothing here needs a network or a model."""
