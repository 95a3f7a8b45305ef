"""Who visits the pages."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client


@pytest.fixture
def visitor(client: Client, alice: User) -> Client:
    """alice's browser, logged in."""
    client.force_login(alice)
    return client


@pytest.fixture
def site(client: Client, staff: User) -> Client:
    """A browser of staff, logged in."""
    client.force_login(staff)
    return client
