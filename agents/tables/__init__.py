"""Tables that users hand over, read, profiled and queried in a process (``desk``) that can do nothing else.

``client.TableDesk`` is this side of it.
"""
