"""The audit trail: who did what to whose key. Append-only, signed as chains, never a secret in it.

``record()`` inside a transaction writes with it: the event is there exactly if the change is. Outside of one it is
committed when ``record()`` returns. Both raise rather than lose an event.
"""

from __future__ import annotations

from llm_credentials.audit.chain import AuditUnavailable
from llm_credentials.audit.context import acting, begin_call, begin_job, begin_request, end_job, end_request
from llm_credentials.audit.recording import arecord, note, record
from llm_credentials.audit.words import Action, target_of

__all__ = [
    "Action",
    "AuditUnavailable",
    "acting",
    "arecord",
    "begin_call",
    "begin_job",
    "begin_request",
    "end_job",
    "end_request",
    "note",
    "record",
    "target_of",
]
