"""Receipts that users hand in, and the expenses that they keep of them: read, checked, confirmed, listed, exported."""
