"""Exports a conversation as Markdown to read or JSON to process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from agents.models import Conversation, StoredMessage
from agents.parts import dump_parts

Form: TypeAlias = Literal["md", "json"]
FORMS: Final[dict[str, str]] = {"md": "text/markdown; charset=utf-8", "json": "application/json"}


def file_name(conversation: Conversation, form: Form) -> str:
    words = re.sub(r"[^\w]+", "-", conversation.title.casefold()).strip("-")[:60]
    return f"{words or 'conversation'}.{form}"


def exported(conversation: Conversation, form: Form) -> bytes:
    text = (
        as_markdown(conversation) if form == "md" else json.dumps(as_json(conversation), ensure_ascii=False, indent=2)
    )
    return text.encode("utf-8", "replace")


def as_json(conversation: Conversation) -> dict[str, Any]:
    """All stored data of the conversation, including what was set aside."""
    return {
        "id": str(conversation.pk),
        "title": conversation.title,
        "agent": conversation.agent,
        "provider": conversation.provider,
        "model": conversation.model,
        "summary": conversation.summary,
        "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
        "messages": [_message(row) for row in conversation.messages.in_order()],
    }


def _message(row: StoredMessage) -> dict[str, Any]:
    plain = ("role", "state", "variant", "is_aside", "files", "receipt", "error")
    return {
        "id": str(row.pk),
        "text": row.text,
        "parts": json.loads(dump_parts(row.parts)),
        "created_at": row.created_at.isoformat(),
        **{name: getattr(row, name) for name in plain},
    }


def as_markdown(conversation: Conversation) -> str:
    return "\n\n".join(_pieces(conversation)) + "\n"


def _pieces(conversation: Conversation) -> Iterator[str]:
    yield f"# {conversation.title or _('Conversation')}"
    for row in conversation.messages.in_order():
        if row.role == "tool" or not (row.text.strip() or row.files or row.error):
            continue
        aside = f" ({_('set aside')})" if row.is_aside else ""
        when = date_format(timezone.localtime(row.created_at), "j M Y, H:i")
        yield f"## {_('You') if row.role == 'user' else _('Answer')}{aside}, {when}"
        if row.files:
            yield "\n".join(f"- {_('File')}: {file['name']}" for file in row.files)
        if row.text.strip():
            yield row.text.strip()
        if row.error:
            yield f"*{row.error['user_message']}*"
        if row.receipt and row.receipt.get("model"):
            yield f"*{row.receipt['provider']} · {row.receipt['model']}*"
