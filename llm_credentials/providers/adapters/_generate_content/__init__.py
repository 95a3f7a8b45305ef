"""The generateContent wire format, which Google created."""
