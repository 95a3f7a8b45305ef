"""Receipt files as a model reads them: text, images, and for PDFs their text, else images of their pages. PDFs are
parsed in a separate process with limits.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from django.utils.translation import gettext as _

from agents import file_kinds
from agents.base import CannotBegin
from llm_credentials.providers import ImagePart, TextPart
from llm_credentials.providers.messages import Part

if TYPE_CHECKING:
    from agents.attachments import Attachment

MAX_PICTURES: Final = 6
MAX_TEXT_CHARS: Final = 40_000
SCANNED_BELOW_CHARS: Final = 20
"""A PDF with less text than this is treated as a scan."""


def parts_of(files: Sequence[Attachment]) -> list[Part]:
    """Raises CannotBegin for an unreadable file, before any model is asked."""
    parts: list[Part] = []
    for each in files:
        parts += _parts(each)
    pictures = [part for part in parts if isinstance(part, ImagePart)]
    if len(pictures) > MAX_PICTURES:
        words = _("These files have %(count)d pictures; at most %(most)d go along. Give one receipt at a time.")
        raise CannotBegin(words % {"count": len(pictures), "most": MAX_PICTURES})
    return parts


def _parts(file: Attachment) -> list[Part]:
    from agents import sent_files  # its models are not ready when agents are listed

    if file.is_image:
        data, media_type = sent_files.smaller(file.data, file.media_type)
        return [ImagePart(data=data, media_type=media_type)]
    if file.media_type == file_kinds.PDF:
        return _of_pdf(file)
    if file.is_text:
        return [_quoted(file.name, file.text)]
    words = _("%(name)s cannot be read as a receipt. Give a photo, a PDF or text.")
    raise CannotBegin(words % {"name": file.name})


def _of_pdf(file: Attachment) -> list[Part]:
    from agents.web import reading

    found = reading.extract("pdf", file.data)
    if found is None:
        words = _("%(name)s could not be read: it is broken, locked or too large. Save it anew, or give a photo of it.")
        raise CannotBegin(words % {"name": file.name})
    text = str(found["text"])
    if len("".join(text.split())) >= SCANNED_BELOW_CHARS:
        return [_quoted(file.name, text)]
    scanned = reading.extract("pdf-pictures", file.data) or {}
    pages = scanned.get("pictures") or []
    if not isinstance(pages, list) or not pages:
        words = _("%(name)s holds neither text nor pictures that can be read. Give a photo of it.")
        raise CannotBegin(words % {"name": file.name})
    return [ImagePart(data=base64.b64decode(page), media_type="image/jpeg") for page in pages]


def _quoted(name: str, text: str) -> TextPart:
    """Marked as data: the model must not follow instructions in it."""
    cut = "\n[the rest was left out]" if len(text) > MAX_TEXT_CHARS else ""
    return TextPart(text=f"\n\nThe file “{name}”:\n\n{text[:MAX_TEXT_CHARS]}{cut}\n\n(end of “{name}”)")
