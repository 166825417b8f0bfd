"""Trials for Determined: the only package, beside train.py, that imports it."""
