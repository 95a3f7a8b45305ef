"""What a notice may say about a key."""

from __future__ import annotations

from llm_credentials.models.sealed import LLMCredential


def key_facts(row: LLMCredential) -> dict[str, str]:
    """Enough to tell it from the owner's other keys."""
    return {
        "provider": row.provider_label,
        "name": "" if row.name == "default" else row.name,
        "last4": row.last4,
    }
