"""The messages wire format, which Anthropic created."""
