"""Keeps the ends of the chains outside of the database, to detect a trail that was emptied together with its ends, or a
database restored to an earlier day.

An append-only file of signed lines. Whoever can write to it can truncate it, so it belongs on another system.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from django.utils import timezone

from llm_credentials.audit import keys
from llm_credentials.audit.chain import SHARDS, ends_seal
from llm_credentials.models import AuditHead

Ends: TypeAlias = Mapping[int, tuple[int, str]]
"""Chain → (last seq, its ``mac``)."""

SIZE_MAX: Final = 64 * 2**20


class EndsUnfit(Exception):
    """The file does not contain valid ends; the message says why."""


def rows_by_chain() -> dict[int, int]:
    """Number of rows each chain has ever had, empty chains included. Never decreases on an intact site."""
    return dict.fromkeys(range(SHARDS), 0) | dict(AuditHead.objects.values_list("shard", "seq"))


def keep(path: Path) -> None:
    """Append the current ends to the file. Raises KeyringError, OSError."""
    key_id, key = keys.signing()
    at = timezone.now().isoformat()
    rows = AuditHead.objects.order_by("shard").values_list("shard", "seq", "mac")
    heads: list[list[str | int]] = [[shard, seq, mac] for shard, seq, mac in rows]
    line = {"at": at, "ends": heads, "key_id": key_id, "seal": ends_seal(key, at, heads)}
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.write(f"{json.dumps(line)}\n")
        file.flush()
        os.fsync(file.fileno())


def kept(path: Path) -> Ends:
    """The furthest end of each chain in the file. Raises EndsUnfit, KeyringError, OSError."""
    if path.stat().st_size > SIZE_MAX:
        raise EndsUnfit("the file is too large to be one of these")
    furthest: dict[int, tuple[int, str]] = {}
    lines = path.read_bytes().splitlines()
    if not lines:
        raise EndsUnfit("the file is empty")
    for number, line in enumerate(lines, start=1):
        for shard, seq, mac in _signed(line, number):
            if seq > furthest.get(shard, (0, ""))[0]:
                furthest[shard] = seq, mac
    return furthest


def _signed(line: bytes, number: int) -> list[tuple[int, int, str]]:
    try:
        said: dict[str, Any] = json.loads(line)
        at, seal, key_id = str(said["at"]), str(said["seal"]), str(said["key_id"])
        heads = [(int(shard), int(seq), str(mac)) for shard, seq, mac in said["ends"]]
        seal.encode("ascii")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EndsUnfit(f"line {number} is none of these") from None
    key = keys.verifying(key_id)
    if key is None:
        raise EndsUnfit(f"line {number} is signed under another key ring")
    if not hmac.compare_digest(ends_seal(key, at, [list(head) for head in heads]), seal):
        raise EndsUnfit(f"line {number} was changed")
    return heads
