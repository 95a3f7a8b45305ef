"""Adapters for allauth."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.fernet import InvalidToken
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from llm_credentials import keyring


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def get_reauthentication_methods(self, user: Any) -> list[dict[str, str]]:
        """With a second factor the password alone is no proof: it may be what was stolen."""
        methods: list[dict[str, str]] = super().get_reauthentication_methods(user)
        factors = [method for method in methods if method["id"] != "reauthenticate"]
        return factors or methods


class SealingMFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Seals the secrets of second factors under the same key ring as the API keys."""

    def encrypt(self, text: str) -> str:
        return keyring.ring().encrypt(f"mfa|{text}".encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        try:
            context, _bar, text = keyring.ring().decrypt(encrypted_text.encode()).decode().partition("|")
        except InvalidToken:
            context, text = "", ""
        if context != "mfa":
            # A lost key ring must give an error message on the login form, not a traceback.
            raise ValidationError(_("This second factor cannot be read any more: ask the operators to remove it."))
        return text
