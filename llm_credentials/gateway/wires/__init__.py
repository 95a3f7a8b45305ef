"""The wire formats that the gateway accepts, one module each: parses requests into our types and encodes answers."""
