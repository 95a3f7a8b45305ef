"""Files for agents: typed by content, capped, their owner's alone, and never with a stored key in them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import Image

from agents import attachments, file_kinds
from agents.attachments import Attachment
from agents.leaving import files
from llm_credentials import services as vault

pytestmark = pytest.mark.django_db
KEY = "sk-attached-CANARY-0123456789abcdef"


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind)
    return out.getvalue()


def png_that_says(width: int, height: int, packed: bytes = b"") -> bytes:
    """A PNG whose head promises more than it holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + packed + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def text_bomb() -> bytes:
    data = b"Comment\0\0" + zlib.compress(b"x" * 80_000_000, 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def workbook(**parts: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in {"[Content_Types].xml": "<Types/>", "xl/workbook.xml": "<workbook/>", **parts}.items():
            packed.writestr(name, text)
    return out.getvalue()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("a.txt", "a")
    return out.getvalue()


def store(user: User, content: bytes, name: str = "file.bin") -> Attachment:
    return attachments.store(user, SimpleUploadedFile(name, content, content_type="text/html"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (picture("PNG"), "image/png"),
        (picture("JPEG"), "image/jpeg"),
        (picture("GIF"), "image/gif"),
        (picture("WEBP"), "image/webp"),
        (b"%PDF-1.7\n%%EOF", "application/pdf"),
        (workbook(), "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        (b"PAR1" + b"\0" * 20 + b"PAR1", "application/vnd.apache.parquet"),
        (b'{"a": [1, 2]}', "application/json"),
        (b"a,b\n1,2\n3,4\n", "text/csv"),
        (b"a;b\n1;2\n", "text/csv"),
        (b"a\tb\n1\t2\n", "text/tab-separated-values"),
        ("Straße, {not json".encode("utf-16"), "text/plain"),
        ("Straße".encode("latin-1"), "text/plain"),
        (b"<html><script>alert(1)</script></html>", "text/plain"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "text/plain"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kind_is_found_in_the_content(alice: User, content: bytes, kind: str) -> None:
    stored = store(alice, content, "invoice.exe")
    assert (stored.media_type, stored.size_bytes, stored.data) == (kind, len(content), content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 60, "read by nobody here"),
        (b"\x89PNG\r\n\x1a\nthis is no picture", "broken"),
        (picture("JPEG", (600, 600))[:200], "broken"),
        (picture("PNG")[:-20], "broken"),
        (png_that_says(60_000, 60_000), "pixels"),
        (png_that_says(7_900, 7_900), "pixels"),
        (png_that_says(8, 6, text_bomb()), "broken"),
        (b"GIF89a" + b"\xff" * 40, "broken"),
        (archive(), "Archives are not unpacked"),
        (workbook()[:-30], "broken"),
        (workbook(**{"xl/sheet.xml": "x" * 2_000_000}), "unpacks to more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_refused_in_words(
    alice: User, content: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_kinds, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(ValidationError) as refusal:
        store(alice, content, "x.png")
    assert says in refusal.value.message_dict["files"][0]
    assert not Attachment.objects.exists()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\plan.txt", "plan.txt"),
        ("a\r\nSet-Cookie: b=c.txt", "aSet-Cookie: b=c.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("\0", "file"),
        ("", "file"),
        ("x" * 300 + ".csv", "x" * 116 + ".csv"),
    ],
)
def test_name_is_only_a_name(name: str, kept: str) -> None:
    assert attachments.clean_name(name) == kept


def test_size_and_sum_are_capped(alice: User, bob: User, settings: Any) -> None:
    settings.ATTACHMENT_MAX_BYTES, settings.ATTACHMENT_USER_MAX_BYTES = 100, 250
    with pytest.raises(ValidationError, match="at most 100 bytes fit"):
        store(alice, b"x" * 101)
    for letter in (b"a", b"b"):
        store(alice, letter * 100)
    with pytest.raises(ValidationError, match="Remove some"):
        store(alice, b"c" * 51)
    store(alice, b"c" * 50)
    store(bob, b"d" * 100)


def test_own_stored_key_in_a_file_is_blocked(alice: User, bob: User) -> None:
    vault.credential_save(user=alice, provider="openai", api_key=KEY)
    env_file = f"# mine\nOPENAI_API_KEY={KEY}\n"
    for content in (env_file.encode(), env_file.encode("utf-16"), picture() + KEY.encode()):
        with pytest.raises(ValidationError) as refusal:
            store(alice, content, ".env")
        words = refusal.value.message_dict["files"][0]
        assert "your own OpenAI key ending in cdef; it was not stored" in words
        assert KEY not in words
    assert store(bob, env_file.encode()).is_text  # nobody is told what others have stored here


def test_unused_file_is_removed_after_a_week(alice: User) -> None:
    old = store(alice, b"old")
    Attachment.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=8))
    store(alice, b"new")
    assert [row.data for row in Attachment.objects.for_user(alice)] == [b"new"]


def test_find_gives_only_ones_own_in_order(alice: User, bob: User) -> None:
    first, second = store(alice, b"1"), store(alice, b"2")
    assert attachments.find(alice, [second.pk, str(first.pk), second.pk]) == [second, first]
    for wrong in (store(bob, b"3").pk, "no-uuid", "\0"):
        with pytest.raises(ValidationError, match="no such file"):
            attachments.find(alice, [first.pk, wrong])
    with pytest.raises(ValidationError, match="At most 10"):
        attachments.find(alice, [store(alice, str(number).encode()).pk for number in range(11)])


def test_export_names_files_without_their_bytes(alice: User, bob: User) -> None:
    stored = store(alice, b"mine")
    store(bob, b"his")
    (said,) = files(alice)
    assert (said["sha256"], said["content_url"]) == (stored.sha256, stored.get_absolute_url())
    assert "content" not in said


def upload(browser: Client, content: bytes, name: str = "page.html") -> Any:
    return browser.post(reverse("agents:attachment-create"), {"files": SimpleUploadedFile(name, content)})


def test_page_takes_a_file_and_gives_its_chip(browser: Client, alice: User) -> None:
    response = upload(browser, b"hello", '<b onclick="x">.txt')
    stored = Attachment.objects.get(user=alice)
    assert response.status_code == 201
    assert f'value="{stored.pk}"' in response.text
    assert "<b onclick" not in response.text


def test_page_refuses_in_words(browser: Client, set_rate: Callable[[str, str, str], None]) -> None:
    for response, says in (
        (upload(browser, archive()), "Archives are not unpacked"),
        (browser.post(reverse("agents:attachment-create")), "Choose a file first"),
    ):
        assert response.status_code == 422
        assert says in response.text
    set_rate("upload", "user", "0/m")
    assert upload(browser, b"hello").status_code == 429


def test_download_is_a_file_and_never_a_page(browser: Client, alice: User) -> None:
    stored = store(alice, b"<script>alert(1)</script>", 'plan "ä".html')
    response = browser.get(stored.get_absolute_url())
    assert response.content == b"<script>alert(1)</script>"
    assert response["Content-Type"].startswith("text/plain")
    assert response["Content-Disposition"].startswith("attachment")
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response["Content-Security-Policy"]
    assert "private" in response["Cache-Control"]


def test_file_that_a_browser_has_kept_is_asked_for_each_time(browser: Client, alice: User, charlie: User) -> None:
    """Whoever comes after its owner, or after it was removed, does not get it from there."""
    stored = store(alice, b"mine")
    address = stored.get_absolute_url()
    first = browser.get(address)
    assert set(first["Cache-Control"].split(", ")) == {"private", "no-cache"}
    seen = {"If-None-Match": first["ETag"]}
    assert browser.get(address, headers=seen).status_code == 304
    browser.force_login(charlie)
    assert browser.get(address, headers=seen).status_code == 404
    browser.force_login(alice)
    stored.delete()
    assert browser.get(address, headers=seen).status_code == 404


def test_stranger_gets_404_and_nothing_changes(client: Client, alice: User, charlie: User) -> None:
    stored = store(alice, b"mine")
    client.force_login(charlie)
    assert client.get(stored.get_absolute_url()).status_code == 404
    assert client.post(reverse("agents:attachment-delete", args=[stored.pk])).status_code == 404
    assert Attachment.objects.filter(pk=stored.pk).exists()


def test_owner_removes_a_file(browser: Client, alice: User) -> None:
    url = reverse("agents:attachment-delete", args=[store(alice, b"mine").pk])
    assert browser.post(url, headers={"HX-Request": "true"}).status_code == 204
    assert not Attachment.objects.exists()


def test_api_takes_lists_gives_and_removes(alice: User, bob: User) -> None:
    def program(user: User, scope: str = "agents") -> Client:
        _, secret = vault.token_create(user=user, scopes=[scope])
        return Client(headers={"Authorization": f"Bearer {secret}"})

    mine = program(alice)
    made = mine.post("/api/attachments", {"file": SimpleUploadedFile("a.csv", b"a,b\n1,2\n")})
    assert (made.status_code, made.json()["media_type"]) == (201, "text/csv")
    one = f"/api/attachments/{made.json()['id']}"
    assert mine.get(made.json()["content_url"]).content == b"a,b\n1,2\n"
    assert [row["id"] for row in mine.get("/api/attachments").json()["items"]] == [made.json()["id"]]
    refused = mine.post("/api/attachments", {"file": SimpleUploadedFile("a.zip", archive())})
    assert (refused.status_code, refused.json()["error"]["where"]) == (422, "body.files")
    for wrong in ({}, json.dumps({"file": "x"})):
        kind = "multipart/form-data; boundary=x" if not wrong else "application/json"
        assert mine.post("/api/attachments", wrong, content_type=kind).status_code in (400, 415, 422)
    assert program(alice, "read").delete(one).status_code == 403
    for method in ("get", "delete"):
        assert getattr(program(bob), method)(one).status_code == 404
    assert mine.delete(one).status_code == 204
    assert mine.get(one).status_code == 404
