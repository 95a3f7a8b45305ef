"""The chat-completions wire, which OpenAI made and most others speak."""
