"""The base models of every row that holds a key."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar
from uuid import uuid4

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials import keyring
from llm_credentials.fields import Sealed, SealedField, Unreadable
from llm_credentials.providers import CredentialUnreadable, ProviderSpec, get_spec, spec_or_none

MASK = "••••"


class KeyHolder(models.Model):
    """A key and its destination, bound together: a key only opens for its own address."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    provider = models.CharField(max_length=40)
    api_key = SealedField(null=True, blank=True)
    base_url = models.CharField(max_length=2048, blank=True, default="")
    """Empty: the provider's own address."""
    model = models.CharField(max_length=200, blank=True, default="")
    options = models.JSONField(blank=True, default=dict)

    class Meta:
        abstract = True

    def owner_ref(self) -> str:
        """The owner that the key is bound to when sealed."""
        raise NotImplementedError

    def sealing_context(self, field: SealedField) -> str:
        # The address comes last, because only it may contain the separator.
        place = f"{self._meta.db_table}.{field.column}"
        return "|".join((place, str(self.pk), self.owner_ref(), self.provider, self.base_url))

    @sensitive_variables()
    def seal(self, plain: str) -> None:
        """Seal this key for the row's current owner, provider and address; set these first. Does not save.

        Raises KeyringError, and ValueError for an empty text or a ciphertext.
        """
        self.api_key = _key_field(self).seal(self, plain)

    @sensitive_variables()
    def reveal(self) -> str:
        """The plain key; empty for a provider that needs none. Only ``opening`` and ``search_keys`` call this.

        Raises CredentialUnreadable.
        """
        if self.api_key is None:
            spec = self.spec_or_none
            if spec is None or spec.key_required:
                raise CredentialUnreadable(provider=self.provider)
            return ""
        return self._opened(self.api_key)

    @sensitive_variables()
    def reseal(self) -> None:
        """Re-seal the same key under the ring's first key, for rotation. Does not save. Raises CredentialUnreadable."""
        if self.api_key is not None:
            self.seal(self._opened(self.api_key))

    @sensitive_variables()
    def hand_key_to(self, other: KeyHolder) -> None:
        """Seal the same key into another row of the same owner and destination. Does not save.

        Raises CredentialUnreadable.
        """
        destination = (other.owner_ref(), other.provider, other.base_url)
        if self.api_key is None or destination != (self.owner_ref(), self.provider, self.base_url):
            raise CredentialUnreadable(provider=self.provider)
        other.seal(self._opened(self.api_key))

    @sensitive_variables()
    def check_readable(self) -> None:
        """Raises CredentialUnreadable unless the key opens; does not return the key."""
        if self.api_key is not None:
            self._opened(self.api_key)

    @sensitive_variables()
    def _opened(self, sealed: Sealed) -> str:
        plain = None
        # The error is raised outside the handler, so that it has no exception context.
        with suppress(Unreadable):
            plain = _key_field(self).open(self, sealed)
        if plain is None or not self._is_the_recorded_key(plain):
            raise CredentialUnreadable(provider=self.provider)
        return plain

    @sensitive_variables()
    def _is_the_recorded_key(self, plain: str) -> bool:
        return True

    @property
    def has_key(self) -> bool:
        return self.api_key is not None

    @property
    def spec(self) -> ProviderSpec:
        """Raises UnknownProvider when this site no longer has the provider."""
        return get_spec(self.provider)

    @property
    def spec_or_none(self) -> ProviderSpec | None:
        return spec_or_none(self.provider)

    @property
    def provider_label(self) -> str:
        spec = self.spec_or_none
        return spec.label if spec else self.provider

    @property
    def is_lost(self) -> bool:
        """Whether this row's encryption key is known to be lost. Decrypts nothing, no query."""
        if self.api_key is None:
            return False
        try:
            ring = keyring.ring()
        except keyring.KeyringError:
            return True
        key_id = self.api_key.key_id
        return key_id not in ring or key_id in ring.lost_ids


def _key_field(row: KeyHolder) -> SealedField:
    field = row._meta.get_field("api_key")
    assert isinstance(field, SealedField)
    return field


class LLMCredential(KeyHolder):
    """A stored key, with the parts of it that lists may show."""

    class Status(models.TextChoices):
        UNVERIFIED = "unverified", _("Not tested yet")
        VALID = "valid", _("Working")
        INVALID = "invalid", _("Refused")
        ERROR = "error", _("Test failed")
        NEEDS_REENTRY = "needs_reentry", _("Needs re-entry")

    LAST4_FROM_LENGTH: ClassVar[int] = 12
    """Four characters would reveal too much of a shorter key."""

    name = models.CharField(max_length=40, default="default")
    last4 = models.CharField(max_length=4, blank=True, default="", editable=False)
    fingerprint = models.CharField(max_length=64, blank=True, default="", editable=False)
    """HMAC of the key under a key derived from the encryption key that ``api_key`` names; recomputed at rotation."""
    is_active = models.BooleanField(default=True)
    priority = models.PositiveIntegerField(default=100)
    """Smaller is tried first."""
    status = models.CharField(max_length=16, choices=Status, default=Status.UNVERIFIED)
    status_detail = models.CharField(max_length=500, blank=True, default="")
    tested_at = models.DateTimeField(null=True, blank=True, editable=False)
    abilities = models.JSONField(blank=True, default=dict, editable=False)
    """Results of the last successful test; see ``probing``."""
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    request_count = models.PositiveBigIntegerField(default=0, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)
    """Incremented by every change that a person makes; cached clients are keyed by it."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    source: ClassVar[str] = "database"

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.provider_label} · {self.name}"

    @sensitive_variables()
    def seal(self, plain: str) -> None:
        super().seal(plain)
        self.fingerprint = keyring.ring().fingerprint(plain)
        self.last4 = plain[-4:] if len(plain) >= self.LAST4_FROM_LENGTH else ""

    @sensitive_variables()
    def _is_the_recorded_key(self, plain: str) -> bool:
        """False when an older ciphertext of this row was put back."""
        assert self.api_key is not None
        return keyring.same_fingerprint(plain, self.fingerprint, key_id=self.api_key.key_id)

    @sensitive_variables()
    def is_key(self, plain: str) -> bool:
        """Whether this is the stored key, by fingerprint; decrypts nothing."""
        if self.api_key is None or not self.fingerprint:
            return False
        with suppress(keyring.KeyringError):
            return keyring.same_fingerprint(plain, self.fingerprint, key_id=self.api_key.key_id)
        return False

    @property
    def masked(self) -> str:
        """``•••• 4f2a``; empty when there is no key."""
        if not self.has_key:
            return ""
        return f"{MASK} {self.last4}" if self.last4 else MASK

    @property
    def needs_reentry(self) -> bool:
        return self.status == self.Status.NEEDS_REENTRY or self.is_lost

    @property
    def shown_status(self) -> LLMCredential.Status:
        """The effective status: shows a lost encryption key before anybody tries to use the row."""
        return self.Status.NEEDS_REENTRY if self.needs_reentry else self.Status(self.status)

    @property
    def shown_detail(self) -> str:
        """The detail for ``shown_status``: the stored detail belongs to the stored status only."""
        return self.status_detail if self.shown_status == self.status else CredentialUnreadable.user_message
