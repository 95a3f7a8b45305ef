"""Django's PostgreSQL backend, without endless waits for a server that has stopped responding."""
