"""Retrievers over one's own corpus, and the folders that keep their indexes."""
