"""From files to batches: validated readers, loading and splitting, features of each task, batching by length."""
