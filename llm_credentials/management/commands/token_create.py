"""``manage.py token_create <username>``: a personal access token, printed this once."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from llm_credentials import services


class Command(BaseCommand):
    help = "Make a personal access token for a user and print it. It cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--scope",
            action="append",
            dest="scopes",
            choices=services.ALL_SCOPES,
            help="What it may do; may be given several times. Without it: everything.",
        )
        parser.add_argument("--name", default="", help="What it is for, shown in the list of tokens.")
        parser.add_argument("--budget-usd", type=float, help="What calls with it may cost a month.")
        parser.add_argument(
            "--provider",
            action="append",
            dest="providers",
            help="A provider that calls with it may reach; may be given several times. Without it: all.",
        )
        parser.add_argument("--days", type=int, help="How long it is valid. Without it: until it is revoked.")

    def handle(self, *, username: str, scopes: list[str] | None, name: str, days: int | None, **options: Any) -> None:
        users = get_user_model()
        user = users._default_manager.filter(**{users.USERNAME_FIELD: username}).first()
        if user is None:
            raise CommandError(f"There is no user called {username!r}.")
        if days is not None and not 0 < days <= 36_500:
            raise CommandError("--days is a whole number from 1 to 36500.")
        expires_at = timezone.now() + timedelta(days=days) if days else None
        try:
            token, secret = services.token_create(
                user=user,
                name=name,
                scopes=scopes or services.ALL_SCOPES,
                expires_at=expires_at,
                budget_usd=options["budget_usd"],
                providers=options["providers"] or (),
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        allowed = ", ".join(token.scopes)
        self.stdout.write(f"Token for {username} ({allowed}), shown only now: {secret}")
