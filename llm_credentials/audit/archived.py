"""Verifies a file written by ``audit_archive`` event by event, so that it can name the first bad one."""

from __future__ import annotations

import hmac
import json
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from llm_credentials.audit import keys
from llm_credentials.audit.archive import archive_seal
from llm_credentials.audit.chain import event_mac
from llm_credentials.audit.export import FIELDS
from llm_credentials.models import AuditEvent


def fault_in(path: Path) -> str:
    """The first fault, in a sentence; empty when the file is intact and this site sealed it.

    Raises OSError, KeyringError.
    """
    walk = _Walk()
    digest, count, last = sha256(), 0, b""
    with path.open("rb") as file:
        for line in file:
            if last:
                if fault := walk.fault_of(last, count + 1):
                    return fault
                digest.update(last)
                count += 1
            last = line
    return _fault_of_seal(last, count, digest.hexdigest())


class _Walk:
    """Follows the chains of the file. The database's checkpoints, not this class, say where each one begins."""

    def __init__(self) -> None:
        self.ends: dict[int, tuple[int, str]] = {}
        """Chain → (seq, mac) of its last event so far."""
        self.keys: dict[str, bytes | None] = {}

    def fault_of(self, line: bytes, number: int) -> str:
        event = _event(line)
        if event is None:
            return f"line {number} is no event"
        where = f"line {number}, chain {event.shard}, row {event.seq} (event {event.pk})"
        if event.key_id not in self.keys:
            self.keys[event.key_id] = keys.verifying(event.key_id)
        key = self.keys[event.key_id]
        if key is None:
            return f"{where}: signed under {event.key_id!r}, whose key is not to be had"
        if not hmac.compare_digest(event_mac(key, event), event.mac):
            return f"{where}: the row was changed or put in"
        seq, mac = self.ends.get(event.shard, (event.seq - 1, event.previous))
        if (event.seq, event.previous) != (seq + 1, mac):
            return f"{where}: a row before it is missing or has changed places"
        self.ends[event.shard] = (event.seq, event.mac)
        return ""


def _event(line: bytes) -> AuditEvent | None:
    try:
        said: dict[str, Any] = json.loads(line)
        values = {name: said[name] for name in FIELDS} | {"at": datetime.fromisoformat(said["at"])}
        event = AuditEvent(**values)
        event.full_clean(validate_unique=False, validate_constraints=False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    except Exception:
        # Django's validation messages quote the value, and this file may have been tampered with.
        return None
    return event


def _fault_of_seal(line: bytes, count: int, digest: str) -> str:
    """Checks the last line, which signs the number of events and their digest."""
    try:
        said = json.loads(line)
        key, seal = keys.verifying(str(said["key_id"])), str(said["seal"])
        events = int(said["events"])
    except (ValueError, KeyError, TypeError):
        return "the signed last line is missing: the end of the file was cut off"
    if key is None:
        return "the site that sealed it had another key ring"
    if not hmac.compare_digest(archive_seal(key, count, digest), seal):
        return f"{count} events, where {events} were sealed" if events != count else "the signed last line was changed"
    return ""
