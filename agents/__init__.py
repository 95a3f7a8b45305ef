"""What is said to a model, and what is done with its answer. Knows nothing of keys or wire formats."""
