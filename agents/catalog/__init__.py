"""One file, one agent. A module here that defines an Agent is found by agents.registry; there is no list to extend."""
