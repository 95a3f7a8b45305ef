"""The chat-completions wire format, which OpenAI created and most others use."""
