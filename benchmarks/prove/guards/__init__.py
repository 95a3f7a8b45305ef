"""The guards of the vault, each with the small change that takes it out and the tests that must then go red.

``before`` stands in the file once, or ``nth`` says which one is meant (from 1). A guard that was rewritten shows as
stale in ``mutations.py``: mend it here in the same change.
"""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards import access, audit, egress, incoming, rows, sealing, silence, use
from benchmarks.prove.guards.guard import Guard

GUARDS: Final = [
    *(*rows.SECOND, *rows.OWN_ROWS, *sealing.SEALING, *sealing.ROTATION, *audit.AUDIT, *egress.EGRESS),
    *(*access.ACCESS, *silence.SILENCE, *use.USE, *incoming.INPUT),
]

__all__ = ["GUARDS", "Guard"]
