"""Unified diffs as models write them: read leniently, applied in memory, written again so that every tool takes them.

Django-free. Nothing here touches a file system: names are names, and whoever writes files has them checked already.
"""

from agents.patching.applying import Patched, apply
from agents.patching.reading import FilePatch, PatchError, is_plain_name, read

__all__ = ["FilePatch", "PatchError", "Patched", "apply", "is_plain_name", "read"]
