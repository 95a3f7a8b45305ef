"""Unified diffs as models write them: parsed leniently, applied in memory, and rewritten so that every tool accepts
them.

Django-free. Nothing here touches a file system: file names are plain strings, and callers that write files must have
checked them.
"""

from agents.patching.applying import Patched, apply
from agents.patching.reading import FilePatch, PatchError, is_plain_name, read

__all__ = ["FilePatch", "PatchError", "Patched", "apply", "is_plain_name", "read"]
