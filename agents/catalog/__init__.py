"""One agent per file. agents.registry finds every module here that defines an Agent."""
