"""Tables that users hand over, read, profiled and queried in a process (``process``) that can do nothing else.

``client.TableProcess`` is this side of it.
"""
