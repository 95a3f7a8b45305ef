"""The messages wire, which Anthropic made."""
