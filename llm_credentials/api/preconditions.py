"""``ETag`` and ``If-Match``: of two people who change the same thing, the second is told, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Annotated

from django.http import HttpResponse
from ninja import Header

from llm_credentials.api.errors import ApiError
from llm_credentials.models import TaskOverride, UserCredential
from llm_credentials.services import Overtaken, VersionConflict

IfMatch = Annotated[
    str | None,
    Header(
        None,
        alias="If-Match",
        max_length=1000,
        # What is sent here is either an ETag of an earlier answer or refused: the document says so in words.
        include_in_schema=False,
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
    wanted = _tags(if_match)
    if stored is None or not {"*", etag_of(stored)} & wanted:
        raise _failed()
    return None if "*" in wanted else stored.version


def _tags(if_match: str) -> set[str]:
    return {tag.strip() for tag in if_match.split(",")}


# What has no number of its own: settings, overrides, the site's choices


def etag_of_version(version: str) -> str:
    return f'"{sha256(version.encode()).hexdigest()[:20]}"'


def seen(if_match: str | None, version: str, *, is_there: bool = True) -> str | None:
    """The version that the change is meant for; None where the caller does not say. Raises 412."""
    if if_match is None:
        return None
    wanted = _tags(if_match)
    if "*" in wanted and is_there:
        return None
    if etag_of_version(version) not in wanted:
        raise _failed()
    return version


@contextmanager
def held(if_match: str | None) -> Iterator[None]:
    """What overtakes the change after the check is the same answer as what did before it."""
    try:
        yield
    except (VersionConflict, Overtaken, UserCredential.DoesNotExist, TaskOverride.DoesNotExist):
        if if_match is None:
            raise
        raise _failed() from None


def _failed() -> ApiError:
    words = "This is not what you last saw: it was changed or removed meanwhile. Nothing was changed; read it again."
    return ApiError(412, "precondition_failed", words, "header.If-Match")
