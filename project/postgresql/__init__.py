"""Django's PostgreSQL, without the endless wait for a server that has stopped answering."""
