"""Reads, profiles and queries users' tables in a sandboxed process (``process``).

``client.TableProcess`` is the parent's side.
"""
