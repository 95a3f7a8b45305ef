"""Files that users give to agents: stored in the database, private, typed by their content.

``store`` takes an upload, ``read`` returns a file with its content. A file that no message, run or schedule uses is
removed after a week, when its owner next stores a file.
"""

from __future__ import annotations

import hashlib
import unicodedata
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.db import models, transaction
from django.db.models import Sum
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from agents import file_kinds

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MAX_FILES: Final = 10
"""Per message or run."""
NAME_CHARS: Final = 120
UNUSED_AFTER: Final = timedelta(days=7)
MB: Final = 1024 * 1024


class AttachmentQuerySet(models.QuerySet["Attachment"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def without_content(self) -> Self:
        """For lists. Accessing the content of such a row fetches it."""
        return self.defer("content")

    def recent_first(self) -> Self:
        return self.order_by("-created_at", "pk")

    def unused(self) -> Self:
        return self.filter(message=None, run=None, schedule=None)


class Attachment(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="attachments")
    name = models.CharField(max_length=NAME_CHARS)
    media_type = models.CharField(max_length=100)
    """Detected from the content; see ``agents.file_kinds``."""
    size_bytes = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    content = models.BinaryField()
    message = models.ForeignKey(
        "agents.StoredMessage", null=True, blank=True, on_delete=models.CASCADE, related_name="attachments"
    )
    """The first message it was attached to."""
    run = models.ForeignKey(
        "agents.AgentRun", null=True, blank=True, on_delete=models.CASCADE, related_name="attachments"
    )
    schedule = models.ForeignKey(
        "agents.ScheduledRun", null=True, blank=True, on_delete=models.SET_NULL, related_name="attachments"
    )
    """The schedule whose runs include it."""
    created_at = models.DateTimeField(auto_now_add=True)

    objects = AttachmentQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "-created_at"])]

    def __str__(self) -> str:
        return f"Attachment {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("agents:attachment-detail", args=[self.pk])

    @property
    def data(self) -> bytes:
        """The content as bytes, whatever type the database returns."""
        return bytes(self.content)

    @property
    def text(self) -> str:
        """The text of a text file; empty for any other."""
        return (file_kinds.decoded(self.data) or "") if self.is_text else ""

    @property
    def is_image(self) -> bool:
        return file_kinds.is_image(self.media_type)

    @property
    def is_text(self) -> bool:
        return file_kinds.is_text(self.media_type)


def store(user: User, upload: UploadedFile[Any]) -> Attachment:
    """Raises ValidationError with ``{"files": [text]}`` if the file is too large, of an unknown kind, or contains one
    of the user's keys.
    """
    name = clean_name(upload.name or "")
    size = upload.size or 0
    if size > settings.ATTACHMENT_MAX_BYTES:
        raise _refused(
            _("%(name)s has %(size)s; at most %(most)s fit.")
            % {"name": name, "size": size_words(size), "most": size_words(settings.ATTACHMENT_MAX_BYTES)}
        )
    return store_bytes(user, name, upload.read())


def store_bytes(user: User, name: str, content: bytes) -> Attachment:
    """Like ``store``, for content in memory, such as a file made by an agent."""
    name = clean_name(name)
    if not content:
        raise _refused(_("%(name)s is empty.") % {"name": name})
    try:
        media_type = file_kinds.kind_of(content)
    except file_kinds.UnknownKind as refusal:
        raise _refused(f"{name}: {refusal}") from None
    _check_secrets(user, name, content, media_type)
    with transaction.atomic():
        # Serialises concurrent uploads, so that each is counted.
        get_user_model().objects.select_for_update().filter(pk=user.pk).first()
        Attachment.objects.for_user(user).unused().filter(created_at__lt=timezone.now() - UNUSED_AFTER).delete()
        held = Attachment.objects.for_user(user).aggregate(held=Sum("size_bytes"))["held"] or 0
        if held + len(content) > settings.ATTACHMENT_USER_MAX_BYTES:
            most = size_words(settings.ATTACHMENT_USER_MAX_BYTES)
            words = _(
                "Your files have %(held)s together; with %(name)s they would have more than %(most)s. Remove some."
            )
            raise _refused(words % {"held": size_words(held), "name": name, "most": most})
        return Attachment.objects.create(
            user=user,
            name=name,
            media_type=media_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            content=content,
        )


def read(user: User, attachment_id: UUID) -> Attachment:
    """The file with its content. Raises Attachment.DoesNotExist, also for other users' files."""
    return Attachment.objects.for_user(user).get(pk=attachment_id)


def find(user: User, ids: Iterable[UUID | str]) -> list[Attachment]:
    """Without content, in the given order, without duplicates. Raises ValidationError if one is missing or there are
    too many.
    """
    wanted: dict[UUID, None] = {}
    for each in ids:
        try:
            wanted[UUID(str(each))] = None
        except ValueError:
            raise _refused(_("There is no such file any more. Attach it again.")) from None
    if len(wanted) > MAX_FILES:
        raise _refused(_("At most %(most)d files go along with one message.") % {"most": MAX_FILES})
    found = {row.pk: row for row in Attachment.objects.for_user(user).without_content().filter(pk__in=list(wanted))}
    if len(found) < len(wanted):
        raise _refused(_("There is no such file any more. Attach it again."))
    return [found[pk] for pk in wanted]


def from_form(user: User, ids: Iterable[str], uploads: Sequence[UploadedFile[Any]]) -> list[Attachment]:
    """Files of a form with ``_partials/attachments.html``: those uploaded before by the script, and those sent with the
    form because no script ran.

    ``from_form(user, request.POST.getlist("attachment"), request.FILES.getlist("files"))``. Raises ValidationError.
    """
    known = find(user, ids)
    if len(known) + len(uploads) > MAX_FILES:
        raise _refused(_("At most %(most)d files go along with one message.") % {"most": MAX_FILES})
    return [*known, *(store(user, upload) for upload in uploads)]


def of_its_own(user: User, file: Attachment) -> Attachment:
    """The file itself if nothing uses it yet, else an unattached copy. Raises ValidationError."""
    if Attachment.objects.for_user(user).unused().filter(pk=file.pk).exists():
        return file
    return store_bytes(user, file.name, file.data)


def remove(user: User, attachment_id: UUID) -> None:
    """Messages it was attached to then show it as removed. Raises Attachment.DoesNotExist."""
    Attachment.objects.for_user(user).without_content().get(pk=attachment_id).delete()


def size_words(size_bytes: int) -> str:
    if size_bytes < 1024:
        return _("%(size)d bytes") % {"size": size_bytes}
    if size_bytes < MB:
        return _("%(size)d KB") % {"size": round(size_bytes / 1024)}
    return _("%(size).1f MB") % {"size": size_bytes / MB}


def clean_name(name: str) -> str:
    """The last part of a path, without terminal, header or text-direction control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    if len(plain) > NAME_CHARS:
        stem, dot, ending = plain.rpartition(".")
        ending = dot + ending if stem and len(ending) <= 10 else ""
        plain = plain[: NAME_CHARS - len(ending)] + ending
    return plain or "file"


def _check_secrets(user: User, name: str, content: bytes, media_type: str) -> None:
    from llm_credentials.factory import tripwire_for  # the factory cannot be imported while models load

    text = file_kinds.decoded(content) if file_kinds.is_text(media_type) else None
    found = tripwire_for(user).find(content if text is None else text)
    if found:
        words = _("%(name)s contains %(secret)s; it was not stored. Remove that from the file and attach it again.")
        raise _refused(words % {"name": name, "secret": found.words})


def _refused(words: str) -> ValidationError:
    return ValidationError({"files": [words]})
