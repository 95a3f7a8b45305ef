"""Secures accounts that somebody else may have created: those whose address was never verified.

Setting the password through a mail to that address proves ownership. Sessions end with the old password and a second
factor is asked for; access tokens would survive and could use the keys that the owner enters now.
"""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from allauth.account.signals import password_reset
from django.db import transaction
from django.dispatch import receiver

from llm_credentials.access_tokens import token_revoke
from llm_credentials.models import PersonalAccessToken
from llm_credentials.wall import acting_for


@receiver(password_reset)
def _end_tokens_of_before(user: Any, **kwargs: Any) -> None:
    addresses = list(EmailAddress.objects.filter(user_id=user.pk))
    if not addresses or any(address.verified for address in addresses):
        return
    with acting_for(user.pk), transaction.atomic():
        tokens = PersonalAccessToken.objects.for_user(user).filter(revoked_at__isnull=True)
        for token_id in tokens.values_list("pk", flat=True):
            token_revoke(user=user, token_id=token_id)
    if len(addresses) == 1:
        # Links are sent only to the user's own addresses, so following one verifies the address.
        addresses[0].set_verified()
