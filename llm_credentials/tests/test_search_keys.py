"""Keys of search services: sealed, bound to their address, proven, told of, looked for, rotated, taken along."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import call_command

from llm_credentials import leaving, sealed_columns, search_keys
from llm_credentials.factory import tripwire_for
from llm_credentials.models import AuditEvent, EgressAllowance, SearchCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.providers.search import Hit
from llm_credentials.providers.tests.test_fetch import Site, page, serving
from llm_credentials.search_keys import (
    SearchDraft,
    changes_search_key,
    search_key_delete,
    search_key_save,
    searches_for,
)
from llm_credentials.services import VersionConflict

KEY = "tvly-dev-0123456789abcdefghij"
JSON = b"content-type: application/json"
FOUND = page(json.dumps({"results": [{"url": "https://x.example/", "title": "X", "content": "x"}]}).encode(), JSON)

pytestmark = pytest.mark.django_db
T = TypeVar("T")


def on_web(answer: Callable[[bytes], bytes], work: Callable[[Site], Awaitable[T]]) -> T:
    """``work`` beside a local server that staff allow agents to reach."""

    async def go() -> T:
        async with serving(answer) as site:
            port = int(site.url.rpartition(":")[2])
            await EgressAllowance.objects.acreate(host="127.0.0.1", port=port, for_tools=True, for_providers=False)
            return await work(site)

    return async_to_sync(go)()


def saved(user: User, **fields: Any) -> SearchCredential:
    draft = SearchDraft(**{"api_key": KEY, **fields})
    return search_key_save(user=user, provider="tavily", draft=draft)[0]


def test_key_is_sealed_shown_by_its_end_and_noted(alice: User) -> None:
    row = saved(alice)
    assert (row.last4, row.masked, row.status, row.base_url) == ("ghij", "•••• ghij", "unverified", "")
    with_text = str(SearchCredential.objects.values_list("api_key", flat=True).get()) + repr(row) + str(row.__dict__)
    assert KEY not in with_text
    assert row.reveal() == KEY
    event = AuditEvent.objects.for_user(alice).recent_first()[0]
    assert (event.action, event.target) == ("credential.create", f"credential:tavily:{row.pk}")


def test_key_is_replaced_kept_and_turned_off(alice: User) -> None:
    first = saved(alice)
    row, created, changed = search_key_save(user=alice, provider="tavily", draft=SearchDraft(is_active=False))
    assert (row.pk, created, changed, row.is_active, row.version) == (first.pk, False, False, False, 2)
    row, created, changed = search_key_save(
        user=alice, provider="tavily", draft=SearchDraft(api_key="tvly-" + "n" * 20)
    )
    assert (row.pk, created, changed, row.last4, row.is_active) == (first.pk, False, True, "nnnn", False)
    with pytest.raises(VersionConflict):
        search_key_save(user=alice, provider="tavily", draft=SearchDraft(is_active=True), version=1)
    unchanged, _, _ = search_key_save(user=alice, provider="tavily", draft=SearchDraft(api_key="•••• nnnn"))
    assert unchanged.version == row.version


@pytest.mark.parametrize(
    ("provider", "fields", "field", "words"),
    [
        ("bing", {"api_key": KEY}, "provider", "no such search service"),
        ("tavily", {}, "api_key", "Enter your Tavily key"),
        ("tavily", {"api_key": "has spaces in it"}, "api_key", "no spaces"),
        ("tavily", {"api_key": "•••• ghij"}, "api_key", "masked form"),
        ("searxng", {}, "base_url", "Enter the address"),
        ("searxng", {"base_url": "http://169.254.169.254/"}, "base_url", "never called"),
        ("searxng", {"base_url": "http://10.0.0.1:8080"}, "base_url", "private"),
        ("searxng", {"base_url": "https://user:pw@x.example"}, "base_url", "no user name"),
        ("brave", {"api_key": KEY, "base_url": "file:///etc/passwd"}, "base_url", "https://"),
        ("brave", {"api_key": KEY, "is_active": "perhaps"}, "is_active", ""),
    ],
)
def test_bad_input_is_refused_in_words(
    alice: User, provider: str, fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        search_key_save(user=alice, provider=provider, draft=SearchDraft(**fields))
    assert words in " ".join(caught.value.message_dict[field])
    assert not SearchCredential.objects.exists()


def test_key_goes_to_its_own_address_alone(alice: User) -> None:
    saved(alice)
    elsewhere = SearchDraft(base_url="https://proxy.example")
    with pytest.raises(ValidationError, match="Enter the key again"):
        search_key_save(user=alice, provider="tavily", draft=elsewhere)
    SearchCredential.objects.update(base_url="https://evil.example")
    with pytest.raises(CredentialUnreadable):
        SearchCredential.objects.get().reveal()


def test_row_of_somebody_else_does_not_open(alice: User, bob: User) -> None:
    row, other = saved(alice), saved(bob)
    SearchCredential.objects.filter(pk=other.pk).update(api_key=row.api_key)
    with pytest.raises(CredentialUnreadable):
        SearchCredential.objects.get(pk=other.pk).reveal()


def test_proof_is_asked_for_what_touches_the_key(alice: User) -> None:
    assert changes_search_key(user=alice, provider="tavily", draft=SearchDraft(api_key=KEY))
    saved(alice)
    assert changes_search_key(user=alice, provider="tavily", draft=SearchDraft(api_key=KEY))
    assert not changes_search_key(user=alice, provider="tavily", draft=SearchDraft(is_active=False))


def test_removed_key_is_gone(alice: User, bob: User) -> None:
    saved(alice)
    with pytest.raises(SearchCredential.DoesNotExist):
        search_key_delete(user=bob, provider="tavily")
    search_key_delete(user=alice, provider="tavily")
    assert not SearchCredential.objects.exists()
    assert AuditEvent.objects.for_user(alice).recent_first()[0].action == "credential.delete"
    assert async_to_sync(searches_for)(alice) == []


def test_services_of_a_user_search_with_their_keys(alice: User, bob: User) -> None:
    saved(bob)

    async def go(site: Site) -> list[Hit]:
        draft = SearchDraft(api_key=KEY, base_url=site.url)
        await search_keys.sync_to_async(search_key_save)(user=alice, provider="tavily", draft=draft)
        (search,) = await searches_for(alice)
        hits = await search.search("fox")
        assert KEY.encode() in site.heads[0]
        return hits

    assert [hit.url for hit in on_web(lambda path: FOUND, go)] == ["https://x.example/"]
    row = SearchCredential.objects.for_user(alice).get()
    assert row.request_count == 1
    opened = AuditEvent.objects.for_user(alice).filter(action="key.open").get()
    assert opened.target == f"credential:tavily:{row.pk}"


def test_service_that_is_off_or_unreadable_is_not_asked(alice: User) -> None:
    row = saved(alice)
    search_key_save(user=alice, provider="tavily", draft=SearchDraft(is_active=False))
    assert async_to_sync(searches_for)(alice) == []
    SearchCredential.objects.filter(pk=row.pk).update(is_active=True, base_url="https://moved.example")
    assert async_to_sync(searches_for)(alice) == []
    assert SearchCredential.objects.get().status == "needs_reentry"


def test_site_offers_its_own_instance_to_those_without(alice: User, settings: Any) -> None:
    """Without a second word among the allowed addresses, which its users' addresses need."""

    async def go() -> list[Hit]:
        async with serving(lambda path: FOUND) as site:
            settings.SEARXNG_URL = site.url
            (search,) = await searches_for(alice)
            return await search.search("fox")

    assert len(async_to_sync(go)()) == 1


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (FOUND, "valid", ""),
        (page(b'{"results": []}', JSON), "error", "found nothing"),
        (page(b"{}", JSON, status=b"401 x"), "invalid", "refuses the key"),
        (page(b"<html>", JSON, status=b"200 x"), "error", "web page"),
        (page(b"", JSON, status=b"503 x"), "error", "out of order"),
    ],
    ids=["works", "empty", "refused", "html", "down"],
)
def test_test_says_what_it_found(alice: User, answer: bytes, status: str, words: str) -> None:
    async def go(site: Site) -> SearchCredential:
        draft = SearchDraft(api_key=KEY, base_url=site.url)
        row, _, _ = await search_keys.sync_to_async(search_key_save)(user=alice, provider="tavily", draft=draft)
        return await search_keys.search_key_test(row)

    row = on_web(lambda path: answer, go)
    assert (row.status, words in row.status_detail) == (status, True)
    assert row.tested_at is not None


def test_tripwire_knows_the_key(alice: User, bob: User) -> None:
    saved(alice)
    assert tripwire_for(alice).name_in(f"x={KEY}") == "your own Tavily key ending in ghij"
    assert tripwire_for(bob).name_in(f"x={KEY}") is None


def test_key_is_rotated_with_all_others(alice: User, settings: Any) -> None:
    row = saved(alice)
    before = row.api_key
    settings.CREDENTIAL_KEYS = f"newer:{'A' * 43}=,{settings.CREDENTIAL_KEYS}"
    call_command("rotate_credential_keys", stdout=io.StringIO())
    after = SearchCredential.objects.get()
    assert after.api_key is not None
    assert (after.api_key.key_id, after.api_key == before) == ("newer", False)
    assert after.reveal() == KEY
    assert SearchCredential in {column.model for column in sealed_columns.sealed_columns()}


def test_key_is_named_in_the_export_and_goes_with_its_user(alice: User) -> None:
    saved(alice)
    exported = leaving.account_export(user=alice)
    (row,) = exported["search_credentials"]
    assert row["provider"] == "tavily"
    assert not {"api_key", "fingerprint"} & set(row)
    leaving.account_delete(user=alice)
    assert not SearchCredential.objects.exists()
