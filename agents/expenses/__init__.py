"""Receipts that users upload, and the expenses made from them: read, checked, confirmed, listed, exported."""
