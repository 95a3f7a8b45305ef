"""Files sent with messages: as rows name them, and as a model reads them.

Images are sent as images, scaled down if they are larger than any model uses, and only to models with vision. Text
files and the text of PDFs are sent as text. For any other file the model only learns its name: agents that take files
read it with their tools.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from agents import file_kinds
from agents.attachments import Attachment, size_words
from agents.web import reading
from llm_credentials.factory import explain_route
from llm_credentials.providers import ImagePart, LLMMessage, TextPart, get_spec
from llm_credentials.providers.messages import Part

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from agents.models import StoredMessage

MAX_TEXT_CHARS: Final = 60_000
"""Of one file that is sent verbatim."""
MAX_IMAGE_BYTES: Final = 3_500_000
MAX_IMAGE_SIDE_PX: Final = 2_048
SEEING_NAMED: Final = 3
PDFS_KEPT: Final = 16
"""Number of PDF texts cached per process: each is needed again in every turn."""
_pdf_texts: OrderedDict[UUID, str] = OrderedDict()
SEE_FILES: Final = "(See the files.)"
"""The text of a message without words."""


def listed(attachments: Iterable[Attachment]) -> list[dict[str, Any]]:
    return [
        {"id": str(each.pk), "name": each.name, "media_type": each.media_type, "size_bytes": each.size_bytes}
        for each in attachments
    ]


def link(attachments: Sequence[Attachment], question: StoredMessage) -> None:
    """Attach the files to the conversation; a file that already belongs to one stays there."""
    Attachment.objects.unused().filter(pk__in=[each.pk for each in attachments]).update(message=question)


def check_seen(user: User, agent: str, choice: tuple[str, str], files: Iterable[dict[str, Any]]) -> None:
    """Raises ValidationError if the model that would answer cannot see the images.

    ``choice``: provider and model, empty where not chosen.
    """
    if not any(file_kinds.is_image(file["media_type"]) for file in files) or sees(user, agent, *choice):
        return
    route = explain_route(user, task=agent, needs={"vision"})
    able = dict.fromkeys(f"{get_spec(each.key.provider).label} {each.model}" for each in route.candidates)
    if able:
        words = _("%(model)s cannot see pictures; nothing was sent. Choose one that can: %(able)s.")
        who = choice[1] or choice[0] or _("Whoever would answer")
        raise ValidationError({"files": [words % {"model": who, "able": ", ".join([*able][:SEEING_NAMED])}]})
    words = _("None of your keys has a model that can see pictures; nothing was sent. Remove the picture, or add one.")
    raise ValidationError({"files": [words]})


def sees(user: User, agent: str, provider: str, model: str) -> bool:
    """Whether the chosen model, else the first in the user's order, has vision; also True if no model is available."""
    route = explain_route(user, task=agent, provider=provider or None, model=model or None, needs={"vision"})
    if route.chosen is None or not provider:
        able = route.chosen is not None
    else:
        able = route.chosen.key.provider == provider and model in ("", route.chosen.model)
    return able or explain_route(user, task=agent, provider=provider or None, model=model or None).chosen is None


def messages_with_files(user_id: int, rows: Sequence[StoredMessage], *, seen: bool = True) -> list[LLMMessage]:
    """Messages including their files. ``seen``: whether images are sent, or only their names."""
    ids = {UUID(file["id"]) for row in rows for file in row.files}
    found = {str(each.pk): each for each in Attachment.objects.filter(user_id=user_id, pk__in=ids)} if ids else {}
    said = [message_with_files(row, found, seen=seen) for row in rows]
    return [message for message in said if message.parts]


def message_with_files(row: StoredMessage, found: dict[str, Attachment], *, seen: bool) -> LLMMessage:
    if not row.files:
        return row.message
    parts = [_part(file, found.get(file["id"]), seen=seen) for file in row.files]
    return LLMMessage(role=row.message.role, parts=(*parts, *row.parts))


def _part(file: dict[str, Any], attachment: Attachment | None, *, seen: bool) -> Part:
    name = file["name"]
    if attachment is None:
        return TextPart(text=f"[The file “{name}” was removed by the user.]")
    if attachment.is_image:
        if not seen:
            return TextPart(text=f"[A picture, “{name}”, which you cannot see.]")
        data, media_type = smaller(attachment.data, attachment.media_type)
        return ImagePart(data=data, media_type=media_type)
    text = attachment.text or (_pdf_text(attachment) if attachment.media_type == file_kinds.PDF else "")
    if text:
        cut = f"\n[{len(text) - MAX_TEXT_CHARS} more characters were left out]" if len(text) > MAX_TEXT_CHARS else ""
        return TextPart(text=f"The file “{name}”:\n\n{text[:MAX_TEXT_CHARS]}{cut}\n\n(end of “{name}”)")
    return TextPart(text=f"[A file, “{name}”, {attachment.media_type}, {size_words(attachment.size_bytes)}.]")


def _pdf_text(attachment: Attachment) -> str:
    """Empty for a PDF that is scanned, encrypted or broken."""
    if attachment.pk in _pdf_texts:
        _pdf_texts.move_to_end(attachment.pk)
        return _pdf_texts[attachment.pk]
    found = reading.extract("pdf", attachment.data)
    text = str(found["text"])[: 2 * MAX_TEXT_CHARS] if found else ""
    _pdf_texts[attachment.pk] = text
    if len(_pdf_texts) > PDFS_KEPT:
        _pdf_texts.popitem(last=False)
    return text


def smaller(data: bytes, media_type: str) -> tuple[bytes, str]:
    """The image scaled down for models, and its media type; unchanged if it is small enough."""
    from PIL import Image, ImageOps  # on first use: most processes never see an image

    with Image.open(io.BytesIO(data), formats=list(file_kinds.IMAGES)) as image:
        if len(data) <= MAX_IMAGE_BYTES and max(image.size) <= MAX_IMAGE_SIDE_PX:
            return data, media_type
        image.draft("RGB", (MAX_IMAGE_SIDE_PX, MAX_IMAGE_SIDE_PX))
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((MAX_IMAGE_SIDE_PX, MAX_IMAGE_SIDE_PX))
        out = io.BytesIO()
        upright.convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue(), "image/jpeg"
