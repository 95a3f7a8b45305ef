"""``ETag`` and ``If-Match``: of two people who change the same key, the second is told, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from django.http import HttpResponse
from ninja import Header

from llm_credentials.api.errors import ApiError
from llm_credentials.models import UserCredential
from llm_credentials.services import VersionConflict

IfMatch = Annotated[
    str | None,
    Header(
        None,
        alias="If-Match",
        max_length=1000,
        description="An ETag from an earlier answer, several, or `*`. If the key is another by now: 412, unchanged.",
    ),
]


def etag_of(credential: UserCredential) -> str:
    # With the row: a key that was removed and stored again begins with the same version.
    return f'"{credential.pk.hex[:12]}-{credential.version}"'


def tell_etag(response: HttpResponse, credential: UserCredential) -> None:
    response["ETag"] = etag_of(credential)


def matched_version(if_match: str | None, stored: UserCredential | None) -> int | None:
    """The version that the change is meant for; None where the caller does not say. Raises 412."""
    if if_match is None:
        return None
    wanted = [tag.strip() for tag in if_match.split(",")]
    if stored is None or not {"*", etag_of(stored)} & set(wanted):
        raise _failed()
    return None if "*" in wanted else stored.version


@contextmanager
def held(if_match: str | None) -> Iterator[None]:
    """What overtakes the change after the check is the same answer as what did before it."""
    try:
        yield
    except (VersionConflict, UserCredential.DoesNotExist):
        if if_match is None:
            raise
        raise _failed() from None


def _failed() -> ApiError:
    words = (
        "This key is not the one you last saw: it was changed or removed meanwhile. Nothing was changed; read it again."
    )
    return ApiError(412, "precondition_failed", words, "header.If-Match")
