from __future__ import annotations

import json
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from llm_credentials import services
from llm_credentials.models import UserCredential
from llm_credentials.providers import registry
from project import env

DEMO_KEY = "sbx-good-demo-0001"
"""A key that the sandbox provider accepts; it opens nothing else."""


class Command(BaseCommand):
    help = "Bring the database of a local site up to date and make its accounts demo and staff."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--accounts", type=Path, required=True, help="file for the new passwords; mode 600")

    def handle(self, *args: Any, accounts: Path, **options: Any) -> None:
        if not settings.LOCAL:
            raise CommandError("LOCAL is off: demo accounts belong on nobody's machine but one's own.")
        call_command("migrate", interactive=False, verbosity=1)
        call_command("check", databases=["default"])
        passwords: dict[str, str] = json.loads(accounts.read_text()) if accounts.exists() else {}
        for name in ("demo", "staff"):
            if password := _make_account(name):
                passwords[name] = password
        _give_demo_a_key()
        env.write_private(accounts, json.dumps(passwords))


def _make_account(name: str) -> str:
    """Its password if the account is new, else the empty string."""
    if User.objects.filter(username=name).exists():
        return ""
    password = secrets.token_urlsafe(9)
    may_all = name == "staff"
    User.objects.create_user(name, password=password, is_staff=may_all, is_superuser=may_all)
    return password


def _give_demo_a_key() -> None:
    """Add a key of the sandbox provider, so that new users can try everything for free."""
    demo = User.objects.get(username="demo")
    for spec in registry.specs():
        if spec.site_address_setting and not UserCredential.objects.for_user(demo).for_provider(spec.slug).exists():
            services.credential_save(user=demo, provider=spec.slug, api_key=DEMO_KEY)
