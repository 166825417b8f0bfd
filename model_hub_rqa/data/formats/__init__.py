"""The formats of questions: what a record has, and which row it becomes."""
