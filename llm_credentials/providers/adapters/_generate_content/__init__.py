"""The generateContent wire, which Google made."""
