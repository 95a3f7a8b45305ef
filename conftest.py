"""Fixtures for every app: who is there, and which real servers the tests talk to."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User


@pytest.fixture
def alice(db: Any) -> User:
    """The owner."""
    return User.objects.create_user("alice", "alice@example.com", "alice-password")


@pytest.fixture
def bob(db: Any) -> User:
    """A colleague."""
    return User.objects.create_user("bob", "bob@example.com", "bob-password")


@pytest.fixture
def charlie(db: Any) -> User:
    """A stranger."""
    return User.objects.create_user("charlie", "charlie@example.com", "charlie-password")


@pytest.fixture
def staff(db: Any) -> User:
    """Staff with every permission."""
    return User.objects.create_superuser("staff", "staff@example.com", "staff-password")
