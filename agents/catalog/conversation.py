"""General conversation, with its history."""

from agents.base import Agent


class ConversationAgent(Agent):
    slug = "conversation"
    title = "Conversation"
    description = (
        "Ask, think aloud or work something out together. It remembers what was said before in the conversation."
    )
    icon = "conversations"
    examples = (
        "Explain how public-key encryption works to a curious teenager.",
        "Give me five names for a small bakery, with a line on each.",
        "What are good questions to ask before renting a flat?",
    )
    weight = "light"
    temperature = 0.7
    max_tokens = 4096
    uses_servers = True
    position = 10
