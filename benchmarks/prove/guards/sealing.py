"""Sealed values, the ring they are sealed under, and its rotation."""

from __future__ import annotations

from typing import Final

from benchmarks.prove.guards.guard import LLM, Guard, tests

SEALING: Final = [
    Guard(
        "a sealed value opens for its own row alone",
        f"{LLM}/fields.py",
        "if not hmac.compare_digest(context.encode(), row.sealing_context(self).encode()):",
        "if False:",
        tests("fields", "sealing"),
    ),
    *(
        Guard(
            f"{what} is part of what a value is sealed to",
            f"{LLM}/models/sealed.py",
            "(place, str(self.pk), self.owner_ref(), self.provider, self.base_url)",
            after,
            tests("fields", "sealing"),
        )
        for what, after in (
            ("the table", '("", str(self.pk), self.owner_ref(), self.provider, self.base_url)'),
            ("the row", '(place, "", self.owner_ref(), self.provider, self.base_url)'),
            ("the owner", '(place, str(self.pk), "", self.provider, self.base_url)'),
            ("the provider", '(place, str(self.pk), self.owner_ref(), "", self.base_url)'),
            ("the address", '(place, str(self.pk), self.owner_ref(), self.provider, "")'),
        )
    ),
    Guard(
        "an older ciphertext of the same row is refused",
        f"{LLM}/models/sealed.py",
        "        assert self.api_key is not None\n        return keyring.same_fingerprint(",
        "        return True or keyring.same_fingerprint(",
        tests("fields", "sealing", "models"),
    ),
    Guard(
        "a ciphertext is never sealed as a key",
        f"{LLM}/fields.py",
        "if not plain or not plain.isascii() or keyring.looks_sealed(plain):",
        "if not plain or not plain.isascii():",
        tests("fields", "sealing"),
    ),
    Guard(
        "only a sealed value is assigned to the column",
        f"{LLM}/fields.py",
        "        if value is not None and not isinstance(value, Sealed):\n            raise TypeError(REFUSAL)\n",
        "",
        tests("fields", "sealing"),
    ),
    Guard(
        "a sealed value is never pickled",
        f"{LLM}/fields.py",
        'raise TypeError("A sealed value is never pickled: pass the credential\'s id instead.")',
        "return (Sealed, (self._stored,))",
        tests("fields", "sealing"),
    ),
    Guard(
        "a sealed value shows nothing of itself",
        f"{LLM}/fields.py",
        'def __repr__(self) -> str:\n        return "<Sealed>"',
        "def __repr__(self) -> str:\n        return self._stored",
        tests("fields", "sealing"),
    ),
    Guard(
        "nobody searches by a key",
        f"{LLM}/fields.py",
        "            case _:\n                raise FieldError(",
        "            case _:\n                return super().get_lookup(lookup_name)\n                FieldError(",
        tests("fields", "sealing"),
    ),
    Guard(
        "a sealed column is in no fixture",
        f"{LLM}/fields.py",
        '{"editable": False, "serialize": False}',
        '{"editable": False}',
        tests("fields", "sealing"),
    ),
    Guard(
        "nothing is sealed under a ring that does not fit",
        f"{LLM}/canary.py",
        "if not _opens(ring, known):",
        "if False:",
        tests("checks", "services"),
    ),
    Guard(
        "an encryption key that left the ring is noticed",
        f"{LLM}/checks.py",
        "for key_id, rows in sorted(canary.stranded_rows().items()):",
        "for key_id, rows in ():",
        tests("checks", "rotation", "rotation_at_once"),
    ),
    Guard(
        "no new ring for a sealed database",
        "project/management/commands/up.py",
        "if canary.holds_sealed_rows():",
        "if False:",
        ("project/tests/test_up.py",),
    ),
]

ROTATION: Final = [
    Guard(
        "rotation writes only what has not changed since it was read",
        f"{LLM}/sealed_columns.py",
        'filter(pk=row.pk, **{f"{self.field.name}__unchanged": getattr(row, self.field.attname)})',
        "filter(pk=row.pk)",
        tests("rotation", "rotation_at_once"),
    ),
    Guard(
        "rotation sees rows that managers hide",
        f"{LLM}/sealed_columns.py",
        "return self.model._base_manager.all()",
        "return self.model._default_manager.all()",
        tests("rotation", "rotation_at_once"),
    ),
    Guard(
        "quarantine tells once",
        f"{LLM}/rotation.py",
        "if still.exclude(status=reentry).update(",
        "if still.update(",
        tests("rotation", "rotation_at_once"),
    ),
    Guard(
        "rotation refuses a ring that would strand rows",
        f"{LLM}/management/commands/rotate_credential_keys.py",
        "if stranded and not give_up_lost:",
        "if False:",
        tests("rotation", "rotation_at_once"),
    ),
    Guard(
        "rotation takes second factors along",
        f"{LLM}/rotation.py",
        "    second_factors.reseal()\n",
        "",
        tests("rotation", "rotation_at_once"),
    ),
    Guard(
        "the fingerprint moves with the key",
        f"{LLM}/sealed_columns.py",
        '("api_key", "fingerprint") if isinstance(row, LLMCredential) else ("api_key",)',
        '("api_key",)',
        tests("rotation", "rotation_at_once"),
    ),
    Guard(
        "a ring that lacks the key marks nothing",
        f"{LLM}/routing/key_status.py",
        "if isinstance(error, CredentialUnreadable) and row.is_lost:",
        "if False:",
        tests("rotation", "rotation_at_once"),
    ),
]
