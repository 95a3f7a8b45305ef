"""Prompts and what happens to a model's answer. Knows nothing of keys or wire formats."""
