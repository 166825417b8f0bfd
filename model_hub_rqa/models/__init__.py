"""What the readers compute with a model of transformers, without subclassing or wrapping it."""
