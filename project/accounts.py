"""What allauth leaves to the site."""

from __future__ import annotations

from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.fernet import InvalidToken
from django.core.exceptions import ValidationError

from llm_credentials import keyring


class SealingMFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Seals the secrets of second factors under the same ring as the API keys."""

    def encrypt(self, text: str) -> str:
        return keyring.ring().encrypt(f"mfa|{text}".encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        try:
            context, _, text = keyring.ring().decrypt(encrypted_text.encode()).decode().partition("|")
        except InvalidToken:
            context, text = "", ""
        if context != "mfa":
            # A page, not a crash: a lost key ring must not show tracebacks on the login form.
            raise ValidationError("This second factor cannot be read any more: ask the operators to remove it.")
        return text
