"""Database access from asynchronous code that runs for minutes."""

from llm_credentials.streams import in_database

__all__ = ["in_database"]
