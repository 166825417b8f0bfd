"""Trained readers to ask, without Determined: from a checkpoint's folder to answers."""
