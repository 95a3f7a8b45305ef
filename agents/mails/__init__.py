"""Support for agents that write mails. Django-free."""
