"""Detects the type of a file from its bytes, never from its name or the sender's claim.

An image's size in pixels is read from its header, and it is decoded only if it fits. For archives (Excel) only the
table of contents is read; nothing is unpacked here.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

MAX_SIDE_PX: Final = 8_000
"""The most that providers accept."""
MAX_PIXELS: Final = 40_000_000
MAX_UNPACKED_BYTES: Final = 300 * 1024 * 1024
MAX_PACKED_PARTS: Final = 5_000

IMAGES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
"""By Pillow's name of the format. Every provider with vision accepts these four."""
TEXT: Final = "text/plain"
CSV: Final = "text/csv"
TSV: Final = "text/tab-separated-values"
JSON: Final = "application/json"
PDF: Final = "application/pdf"
XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PARQUET: Final = "application/vnd.apache.parquet"

ACCEPTED: Final = gettext_noop(
    "a PNG, JPEG, GIF or WebP picture, a PDF, an Excel (.xlsx) or Parquet table, or text such as CSV, JSON or code"
)
_IMAGE_HEADS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_TABLES: Final = ((CSV, ","), (CSV, ";"), (TSV, "\t"))
_PROBE_LINES: Final = 20


class UnknownKind(ValueError):
    """Nothing here reads such a file; the text is meant for the sender."""


_TOO_MANY_PIXELS: Final = gettext_noop(
    "This picture has too many pixels: at most %(side)d a side and %(all)d million together fit. Make it smaller."
)


def is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type == JSON


def is_image(media_type: str) -> bool:
    return media_type in IMAGES.values()


def kind_of(content: bytes) -> str:
    """The media type. Raises UnknownKind."""
    if content.startswith(_IMAGE_HEADS) or (content.startswith(b"RIFF") and content[8:12] == b"WEBP"):
        return _image_kind(content)
    if b"%PDF-" in content[:1024]:
        return PDF
    if content.startswith(b"PAR1") and content.endswith(b"PAR1") and len(content) > 12:
        return PARQUET
    if content.startswith(b"PK"):
        return _packed_kind(content)
    text = decoded(content)
    if text is None:
        raise UnknownKind(_("This kind of file is read by nobody here. Attach %(what)s.") % {"what": _(ACCEPTED)})
    return _text_kind(text)


def decoded(content: bytes) -> str | None:
    """The text of a text file: UTF-8, UTF-16 with a byte order mark, else single-byte. None if it is not text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    # Text may contain tabs, line ends and form feeds; a few other control characters prove little.
    odd = sum(text.count(chr(code)) for code in range(32) if code not in (9, 10, 12, 13, 27))
    return None if "\0" in text or odd > len(text) // 50 else text


def _image_kind(content: bytes) -> str:
    from PIL import Image  # on first use: most processes never see an image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=list(IMAGES)) as image:
                kind, (width, height) = IMAGES[str(image.format)], image.size
                if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
                    raise _too_many_pixels()
                image.verify()
            with Image.open(io.BytesIO(content), formats=list(IMAGES)) as image:
                image.draft("RGB", (width // 8 or 1, height // 8 or 1))  # JPEG: decodes at reduced size
                image.load()
    except UnknownKind:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels() from None
    # Pillow's readers raise almost any exception on broken files, including its decompression bomb checks.
    except Exception:
        raise UnknownKind(
            _("This picture is broken or not what it says it is. Save it anew and attach that.")
        ) from None
    return kind


def _too_many_pixels() -> UnknownKind:
    return UnknownKind(_(_TOO_MANY_PIXELS) % {"side": MAX_SIDE_PX, "all": MAX_PIXELS // 1_000_000})


def _packed_kind(content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            parts = packed.infolist()
            names = {part.filename for part in parts}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        raise UnknownKind(_("This file is broken. Save it anew and attach that.")) from None
    if not {"[Content_Types].xml", "xl/workbook.xml"} <= names:
        raise UnknownKind(_("Archives are not unpacked here. Attach %(what)s.") % {"what": _(ACCEPTED)})
    if len(parts) > MAX_PACKED_PARTS or sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES:
        raise UnknownKind(_("This workbook unpacks to more than fits. Save the sheet that matters on its own."))
    return XLSX


def _text_kind(text: str) -> str:
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            return JSON
    lines = [line for line in text[:100_000].splitlines()[:_PROBE_LINES] if line.strip()]
    for kind, mark in _TABLES:
        counts = {line.count(mark) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and min(counts) > 0:
            return kind
    return TEXT
