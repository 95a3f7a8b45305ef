"""The messages wire: our vocabulary to its JSON and back. Pure: no I/O, no SDK."""
