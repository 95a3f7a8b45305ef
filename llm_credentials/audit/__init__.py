"""The audit trail: who did what to whose key. Append-only, signed as chains, without secrets.

Inside a transaction ``record()`` joins it: the event exists exactly if the change does. Outside of one, the event is
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
