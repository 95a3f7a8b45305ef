"""Settings out and in, and keys from a pasted text: from Python and on the page."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from llm_credentials import services
from llm_credentials.env_keys import MAX_CHARS, Wish, env_import, env_plan, read_env
from llm_credentials.models import AuditEvent, ConnectionTest, GroupPolicy, LLMSettings, TaskOverride, UserCredential
from llm_credentials.stepup import LOGGED_IN_AT
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.transfer import MAX_BYTES, document_read, settings_export, settings_import

PLACE = "/settings/llm/transfer/"
KEY = "sk-proj-CANARY0123456789abcd4f2a"
GROQ = "gsk_CANARY0123456789abcdef77aa"

pytestmark = pytest.mark.django_db


def html(response: Any) -> str:
    return str(response.content.decode())


# Settings


@pytest.fixture
def settled(alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY, model="gpt-5", priority=20)
    UserCredentialFactory(user=alice, provider="mistral", name="work", key="sk-CANARY-work-0123456789")
    services.settings_update(user=alice, default_provider="mistral", temperature=0.4, monthly_budget_usd=12.5)
    services.task_override_set(user=alice, task="code", model="gpt-5", max_tokens=500)
    work = UserCredential.objects.get(name="work")
    services.task_override_set(user=alice, task="analysis", credential=work.pk)


def test_settings_go_out_without_keys_and_ids_and_come_in_again(alice: User, bob: User, settled: None) -> None:
    text = settings_export(alice).model_dump_json()
    assert "CANARY" not in text
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text)
    UserCredentialFactory(user=bob, provider="mistral", name="work")
    lines = settings_import(user=bob, document=document_read(text))
    found = {line.what: line.outcome for line in lines}
    assert found["Key openai"] == "missing"
    assert found["Temperature"] == found["Task Code"] == found["Task Analysis"] == "changed"
    assert found["Which key goes first"] == "same"
    assert LLMSettings.of(bob).temperature == 0.4
    override = TaskOverride.objects.get(user=bob, task="analysis")
    assert override.credential == UserCredential.objects.get(user=bob)
    again = settings_import(user=bob, document=document_read(text))
    assert {line.outcome for line in again} == {"same", "missing"}


def test_dry_run_changes_nothing(alice: User, bob: User, settled: None) -> None:
    document = settings_export(alice)
    events = AuditEvent.objects.count()
    lines = settings_import(user=bob, document=document, dry_run=True)
    assert any(line.outcome == "changed" for line in lines)
    assert not LLMSettings.objects.filter(user=bob).exists()
    assert not TaskOverride.objects.filter(user=bob).exists()
    assert AuditEvent.objects.count() == events


def document(**parts: Any) -> str:
    return json.dumps({"format": "keyswitch-settings", "version": 1, **parts})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "no export of settings"),
        ('{"format": "other", "version": 1}', "no export of settings"),
        (document(version=2), "another version"),
        (document(version="1"), "another version"),
        (document(nonsense=1), "nonsense: there is no such setting."),
        (document(keys=[{"provider": "openai", "api_key": KEY}]), "keys have no place in this"),
        (document(tasks=[{"task": "code", "credential": "6f9619ff-8b86-4d11-b42d-00c04fc964ff"}]), "no such setting"),
        (document(settings={"temperature": "hot"}), "settings.temperature cannot be that."),
        (document(settings={"temperature": True}), "settings.temperature cannot be that."),
        (document(keys=[{}]), "keys.0.provider is missing."),
        (document(keys=[{"provider": "openai"}] * 501), "keys cannot be that."),
        ('{"format": "keyswitch-settings", "version": 1, "settings": {"temperature": NaN}}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (" " * (MAX_BYTES + 1), "too long"),
    ],
)
def test_what_is_no_document_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        document_read(text)
    told = " ".join(refusal.value.message_dict["document"])
    assert words in told
    assert "CANARY" not in told


def test_what_cannot_be_settled_is_said_and_the_rest_is(alice: User, bob: User) -> None:
    row = UserCredentialFactory(user=alice, key=KEY)
    UserCredentialFactory(user=bob, provider="groq", name="theirs")
    text = document(
        settings={"default_provider": "nobody", "max_tokens": -1, "strategy": "fastest", "muted": ["\0"]},
        keys=[
            {"provider": "openai", "base_url": "https://elsewhere.example/v1", "model": "../../admin"},
            {"provider": "groq", "name": "theirs"},
        ],
        tasks=[{"task": "nothing"}, {"task": "code", "provider": "groq", "name": "theirs"}],
    )
    lines = settings_import(user=alice, document=document_read(text))
    assert [(line.what, line.outcome) for line in lines] == [
        ("Default provider", "refused"),
        ("Most tokens", "refused"),
        ("Which key goes first", "changed"),
        ("Muted alerts", "refused"),
        ("Key openai", "refused"),
        ("Key openai", "refused"),
        ("Key groq · theirs", "missing"),
        ("Task nothing", "refused"),
        ("Task Code", "refused"),
    ]
    row.refresh_from_db()
    assert (row.base_url, row.model, row.reveal()) == ("", "", KEY)


def test_page_shows_what_would_change_and_changes_it(visitor: Client, alice: User) -> None:
    text = document(settings={"temperature": 0.4})
    look = html(visitor.post(f"{PLACE}settings/look/", {"document": text}))
    assert "Change 1 thing" in look
    assert LLMSettings.of(alice).temperature is None
    assert visitor.post(f"{PLACE}settings/", {"document": text})["Location"] == "/settings/llm/"
    assert LLMSettings.of(alice).temperature == 0.4
    exported = visitor.get(f"{PLACE}export/")
    assert "attachment" in exported["Content-Disposition"]
    assert exported.json()["settings"]["temperature"] == 0.4


def test_page_takes_a_file_and_refuses_what_is_none(visitor: Client) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    good = SimpleUploadedFile("settings.json", document(settings={"alerts": False}).encode())
    assert "Change 1 thing" in html(visitor.post(f"{PLACE}settings/look/", {"file": good}))
    bad = SimpleUploadedFile("settings.json", b"\xff\x00<script>")
    response = visitor.post(f"{PLACE}settings/look/", {"file": bad})
    assert response.status_code == 422
    assert "This is not valid JSON." in html(response)


# Keys


ENV = f"""
# work
export OPENAI_API_KEY="{KEY}"
OPENAI_MODEL=gpt-5   # the good one
OPENAI_API_KEY_SIDE='sk-CANARY-side-0123456789'
FAST={GROQ}
CLOSE=sk-CANARY0123456789abcdef
MISTRAL_API_KEY=short
DATABASE_URL=postgres://user:CANARY@db/x
"""


def test_text_is_told_line_by_line(alice: User) -> None:
    plan = env_plan(user=alice, text=ENV)
    assert [(key.variable, key.spec.slug if key.spec else "", key.name, key.outcome) for key in plan.keys] == [
        ("OPENAI_API_KEY", "openai", "default", "add"),
        ("OPENAI_API_KEY_SIDE", "openai", "side", "add"),
        ("FAST", "groq", "fast", "add"),
        ("CLOSE", "", "default", "choose"),
        ("MISTRAL_API_KEY", "mistral", "default", "refused"),
    ]
    assert plan.keys[0].model == "gpt-5"
    assert plan.ignored == 1
    assert "CANARY" not in repr(plan) + "".join(key.words for key in plan.keys)
    assert not UserCredential.objects.exists()


def test_keys_that_are_there_are_said_so(alice: User, bob: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    UserCredentialFactory(user=alice, provider="groq", key="gsk_other0123456789abcdef")
    UserCredentialFactory(user=bob, provider="mistral")
    text = f"OPENAI_API_KEY={KEY}\nGROQ_API_KEY={GROQ}\nMISTRAL_API_KEY=CANARY-mistral-0123456789"
    outcomes = {key.variable: key.outcome for key in env_plan(user=alice, text=text).keys}
    assert outcomes == {"OPENAI_API_KEY": "same", "GROQ_API_KEY": "replace", "MISTRAL_API_KEY": "add"}
    env_import(user=alice, text=text)  # only what takes nobody's place
    assert UserCredential.objects.get(user=alice, provider="groq").reveal() != GROQ
    env_import(user=alice, text=text, take={"GROQ_API_KEY": Wish()})
    assert UserCredential.objects.get(user=alice, provider="groq").reveal() == GROQ


def test_two_keys_of_one_name_are_not_both_taken(alice: User) -> None:
    text = f"GEMINI_API_KEY=AIzaCANARY0123456789abcdef\nGOOGLE_API_KEY=AIzaCANARY9876543210abcdef\nA={KEY}\nA={GROQ}"
    plan = env_plan(user=alice, text=text)
    assert [(key.variable, key.outcome) for key in plan.keys] == [
        ("GEMINI_API_KEY", "add"),
        ("GOOGLE_API_KEY", "refused"),
        ("A", "add"),
    ]
    assert plan.keys[2].api_key == GROQ  # of one that is there twice, the last
    named = env_plan(user=alice, text=text, wishes={"GOOGLE_API_KEY": Wish(name="second")})
    assert named.keys[1].outcome == "add"


def test_policy_is_asked_for_each_key(alice: User) -> None:
    GroupPolicy.objects.create(allowed_providers=["groq"])
    plan = env_plan(user=alice, text=f"OPENAI_API_KEY={KEY}\nGROQ_API_KEY={GROQ}")
    assert [key.outcome for key in plan.keys] == ["refused", "add"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line like NAME=value"),
        ("just words", "no line like NAME=value"),
        ("A=b\0", "This is no text."),
        ("A=" + "x" * MAX_CHARS, "too long"),
        ("A=b\n" * 1001, "too long"),
        ("\n".join(f"K{number}={GROQ}{number}" for number in range(51)), "more than 50 keys"),
    ],
)
def test_what_is_no_env_text_is_refused_in_words(alice: User, text: str, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        env_plan(user=alice, text=text)
    assert words in " ".join(refusal.value.message_dict["text"])
    assert "CANARY" not in str(refusal.value)


def test_values_are_read_as_shells_write_them() -> None:
    text = "\ufeffA=1\r\nexport B = 'two words' # x\n C=\"a#b\"\nD=a#b\nE=\nF='open\n1X=no\n"
    assert read_env(text) == {"A": "1", "B": "two words", "C": "a#b", "D": "a#b", "E": "", "F": "'open"}


def import_keys(client: Client, *variables: str, **chosen: str) -> Any:
    return client.post(f"{PLACE}keys/", {"text": ENV, "take": variables, **chosen})


def test_page_imports_what_was_chosen_and_tests_it(visitor: Client) -> None:
    look = html(visitor.post(f"{PLACE}keys/look/", {"text": ENV}))
    assert "•••• 4f2a" in look
    assert "A new key" in look
    assert not UserCredential.objects.exists()
    assert "CANARY" not in str(dict(visitor.session))
    response = import_keys(visitor, "OPENAI_API_KEY", "CLOSE", **{"provider-CLOSE": "deepseek", "name-CLOSE": "spare"})
    assert response["Location"] == "/settings/llm/"
    assert set(UserCredential.objects.values_list("provider", "name")) == {
        ("openai", "default"),
        ("deepseek", "spare"),
    }
    assert UserCredential.objects.get(provider="openai").model == "gpt-5"
    assert ConnectionTest.objects.count() == 2
    assert "CANARY" not in html(visitor.get("/settings/llm/"))


def test_page_keeps_the_text_in_the_browser_until_the_proof(visitor: Client) -> None:
    session = visitor.session
    session[LOGGED_IN_AT] = time.time() - 86_400
    session.save()
    response = import_keys(visitor, "OPENAI_API_KEY")
    assert response.status_code == 401
    assert "Confirm that it is you" in html(response)
    assert KEY in html(response)  # in the form that is sent again
    assert "no-store" in response["Cache-Control"]
    assert not UserCredential.objects.exists()
    assert "CANARY" not in str(dict(visitor.session))


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ((), {}),
        (("NOBODY",), {}),
        (("CLOSE",), {}),
        (("MISTRAL_API_KEY",), {}),
        (("CLOSE",), {"provider-CLOSE": "nobody"}),
        (("OPENAI_API_KEY",), {"name-OPENAI_API_KEY": "../x"}),
    ],
)
def test_page_stores_nothing_that_cannot_be(
    visitor: Client, variables: tuple[str, ...], chosen: dict[str, str]
) -> None:
    assert import_keys(visitor, *variables, **chosen).status_code == 422
    assert not UserCredential.objects.exists()
