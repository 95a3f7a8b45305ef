"""What tests of step-up share."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.sessions.models import Session
from django.test import Client

KEY = "sk-canary-stepup-0123456789abcdef"
STORED = "sk-canary-stored-0123456789abcdef"
CONFIRM = "/settings/security/confirm/"


def target(response: Any) -> str:
    return str(response.headers.get("HX-Redirect") or response.headers.get("Location") or "")


def assert_nothing_kept(client: Client, response: Any) -> None:
    """No key in the session, its row, the answer or where it leads."""
    rows = "".join(session.session_data + json.dumps(session.get_decoded()) for session in Session.objects.all())
    for place in (rows, json.dumps(dict(client.session)), response.content.decode(), str(response.headers)):
        assert "canary" not in place
