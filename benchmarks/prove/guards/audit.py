"""The audit trail."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, Guard, tests

AUDIT: Final = [
    Guard(
        "the event is written before the key is opened",
        f"{LLM}/opening.py",
        "    await sync_to_async(announce_opening)(credential, user_id)\n",
        "",
        tests("audit_events"),
    ),
    Guard(
        "no key is opened inside a transaction",
        f"{LLM}/audit/opening.py",
        "with transaction.atomic(durable=True) if connection.in_atomic_block else nullcontext():",
        "with nullcontext():",
        tests("audit_events"),
    ),
    Guard(
        "without a usable ring nothing is opened",
        f"{LLM}/audit/opening.py",
        "    except keyring.KeyringError:\n        return False\n",
        "    except keyring.KeyringError:\n        return True\n",
        tests("audit_events"),
    ),
    Guard(
        "SQLite refuses to change an event",
        f"{LLM}/audit/guard.py",
        'for what in ("UPDATE", "DELETE")\n] + [',
        "for what in ()\n] + [",
        tests("audit"),
    ),
    Guard(
        "SQLite refuses to replace an event",
        f"{LLM}/audit/guard.py",
        "WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id OR (shard = NEW.shard AND seq = NEW.seq))",
        "WHEN 0",
        tests("audit"),
    ),
    Guard(
        "a missing trigger is noticed",
        f"{LLM}/audit/guard.py",
        "return names <= found",
        "return True",
        tests("audit", "checks"),
    ),
    Guard(
        "an event's signature is checked",
        f"{LLM}/audit/verify.py",
        "if not hmac.compare_digest(event_mac(key, event), event.mac):",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "an event follows the one before it",
        f"{LLM}/audit/verify.py",
        "if event.previous != self.mac:",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "a gap between events is found",
        f"{LLM}/audit/verify.py",
        "if event.seq != self.seq + 1:",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "the end of a chain is sealed",
        f"{LLM}/audit/verify.py",
        "if head.seq and (key is None or not hmac.compare_digest(_seal(key, head), head.seal)):",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "a cut-off end is found",
        f"{LLM}/audit/verify.py",
        "if head.seq > self.seq:",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "a row past the end is found",
        f"{LLM}/audit/verify.py",
        'return self._broken(extra.seq, "the row was put in after the chain\'s end", extra)',
        "return None",
        tests("audit"),
    ),
    Guard(
        "a checkpoint is signed",
        f"{LLM}/audit/verify.py",
        "if key is None or not hmac.compare_digest(checkpoint_seal(key, *said), checkpoint.seal):",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "an archive is signed",
        f"{LLM}/audit/archived.py",
        "if not hmac.compare_digest(archive_seal(key, count, digest), seal):",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "a broken trail is not archived",
        f"{LLM}/audit/archive.py",
        "if report.broken:",
        "if False:",
        tests("audit"),
    ),
    Guard(
        "two writers never build on the same end",
        f"{LLM}/audit/chain.py",
        "unmoved = AuditHead.objects.filter(pk=head.shard, seq=head.seq, mac=head.mac)",
        "unmoved = AuditHead.objects.filter(pk=head.shard)",
        tests("audit"),
    ),
    Guard(
        "reaching for what is another's is written down",
        f"{LLM}/audit/denials.py",
        'note(action=Action.ACCESS_DENIED, actor=caller, subject=str(owner), target=target, result="404")',
        "pass",
        tests("audit_events"),
    ),
    Guard(
        "only the network of an address is kept",
        f"{LLM}/audit/context.py",
        "(address, 24 if address.version == 4 else 48)",
        "address",
        tests("audit", "audit_events"),
    ),
    Guard(
        "without a trail an API call is a worded 503",
        f"{LLM}/api/errors.py",
        "    @api.exception_handler(AuditUnavailable)\n",
        "",
        ("project/tests/test_audit_unavailable.py",),
    ),
]
