"""A provider is one row, a new wire one file: dropped in, each is everywhere, with no other edit and no migration."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from llm_credentials import services
from llm_credentials.factory import client_for
from llm_credentials.forms import CredentialForm
from llm_credentials.models import UserCredential
from llm_credentials.providers import LLMMessage, StreamInterrupted, get_spec, provider_choices, registry
from llm_credentials.providers import adapters as adapters_package

pytestmark = pytest.mark.django_db(transaction=True)

Drop = Callable[[str, str], None]
ROW = """
from llm_credentials.providers.spec import ModelFacts, ProviderSpec

SPECS = (
    ProviderSpec(
        slug="acme",
        label="Acme Intelligence",
        client="llm_credentials.providers.adapters._chat.client:ChatCompletionsClient",
        base_url="{address}/v1",
        description="Models by Acme.",
        best_for="Anvils",
        key_hint="acme-…",
        models=(ModelFacts(id="sandbox-chat", label="Acme One", context_window=4096),),
        default_model="sandbox-chat",
        cheapest_model="sandbox-chat",
        env_key_names=("ACME_API_KEY",),
        env_prefix="ACME",
    ),
)
"""
WIRE = '''
"""A wire of its own: POST /say {{"words": […]}} → lines of words, END last."""

from llm_credentials.providers import transport, wire
from llm_credentials.providers.client import LLMClient
from llm_credentials.providers.messages import (
    LLMMessage, LLMResponse, LLMStreamChunk, ModelInfo,
)
from llm_credentials.providers.spec import ModelFacts, ProviderSpec
from llm_credentials.providers.usage import Usage


class SayClient(LLMClient):
    def encode(self, call, *, stream):
        return "/say", {{"words": [message.text for message in call.messages], "stream": stream}}

    def decode(self, call, data, headers):
        message = LLMMessage.assistant(data["said"])
        return LLMResponse(
            message=message, finish_reason="stop", usage=Usage(), provider=self.provider, model=call.model
        )

    def decoder(self, call, headers):
        return Decoder(self, call)

    async def send(self, path, body, *, stream):
        http = transport.http_client(self.egress)
        headers = self.forward_headers()
        request = http.build_request("POST", self.base_url + path, content=wire.encode_json(body), headers=headers)
        return await http.send(request, stream=True)

    def sdk_error(self, error):
        return None

    async def fetch_models(self):
        return [ModelInfo(id="say-1", label="Say One")]

    def forward_url(self, path):
        return self.base_url + path

    def forward_headers(self):
        return {{"x-say-key": self._api_key or ""}}


class Decoder:
    def __init__(self, client, call):
        self.client, self.call, self.said = client, call, ""
        self.ended = False

    @property
    def has_content(self):
        return bool(self.said)

    def feed(self, event, data):
        if data == b"END":
            self.ended = True
            return
        self.said += data.decode()
        yield LLMStreamChunk(type="delta", text=data.decode())

    def finish(self):
        return ()

    def response(self):
        return self.client.decode(self.call, {{"said": self.said}}, {{}})


SPECS = (
    ProviderSpec(
        slug="sayer",
        label="Sayer",
        client="llm_credentials.providers.adapters.dropped_wire:SayClient",
        base_url="{address}",
        key_hint="say-…",
        models=(ModelFacts(id="say-1", label="Say One"),),
        default_model="say-1",
        cheapest_model="say-1",
    ),
)
'''


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Puts a file among the adapters."""
    monkeypatch.setattr(adapters_package, "__path__", [*adapters_package.__path__, str(tmp_path)])
    dropped: list[str] = []

    def put(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        dropped.append(name)
        registry._all.cache_clear()
        registry.client_class.cache_clear()

    yield put
    monkeypatch.undo()
    for name in dropped:
        sys.modules.pop(f"{adapters_package.__name__}.{name}", None)
        vars(adapters_package).pop(name, None)
    registry._all.cache_clear()
    registry.client_class.cache_clear()


@pytest.fixture
def acme(drop: Drop, sandbox_url: str) -> str:
    drop("dropped_row", ROW.format(address=sandbox_url))
    return "acme"


class _Sayer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = f"{asked['words'][-1]}!" if self.headers["x-say-key"] == "say-good" else "Who is there?"
        pieces = [*words.split(), *([] if words.startswith("cut") else ["END"])]
        streamed = "".join(f"data: {piece}\n\n" for piece in pieces)
        body = streamed.encode() if asked["stream"] else json.dumps({"said": words}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def sayer(drop: Drop, settings: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sayer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"127.0.0.1:{server.server_port}"
    settings.LLM_EGRESS_ALLOW = [address]
    drop("dropped_wire", WIRE.format(address=f"http://{address}"))
    yield "sayer"
    server.shutdown()
    thread.join()
    server.server_close()


def test_row_is_a_choice_in_the_registry(acme: str) -> None:
    assert (acme, "Acme Intelligence") in provider_choices()
    assert get_spec(acme).monogram == "AI"


def test_row_needs_no_migration(acme: str) -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_row_is_on_the_pages(acme: str, client: Client, alice: User) -> None:
    client.force_login(alice)
    listed = client.get("/settings/llm/").content.decode()
    assert "Acme Intelligence" in listed
    page = client.get(f"/settings/llm/{acme}/").content.decode()
    assert "Acme One" in page
    response = client.post(f"/settings/llm/{acme}/save/", {"api_key": "sbx-good-0123456789", "is_active": "on"})
    assert response.status_code in (200, 302)
    assert UserCredential.objects.get(user=alice).provider == acme


def test_row_has_the_form(acme: str) -> None:
    form = CredentialForm({"api_key": "acme-key-0123456789"}, spec=get_spec(acme), name="default", credential=None)
    assert form.is_valid(), form.errors
    assert form["api_key"].html_name == "api_key"


def test_row_is_in_the_api(acme: str, alice: User) -> None:
    token = services.token_create(user=alice)[1]
    program = Client(headers={"Authorization": f"Bearer {token}"})
    listed = program.get(f"/api/user/llm-credentials/available-models/{acme}").json()
    assert [model["id"] for model in listed["items"]] == ["sandbox-chat"]
    body = {"provider": acme, "api_key": "sbx-good-0123456789"}
    assert program.post("/api/user/llm-credentials", body, content_type="application/json").status_code == 201
    (item,) = program.get("/api/user/llm-credentials").json()["items"]
    assert item["provider"] == acme


def test_row_is_a_filter_in_the_admin(acme: str, client: Client, staff: User, alice: User) -> None:
    services.credential_save(user=alice, provider=acme, api_key="sbx-good-0123456789")
    client.force_login(staff)
    page = client.get("/admin/llm_credentials/usercredential/").content.decode()
    assert f"provider__exact={acme}" in page or f"provider={acme}" in page
    filtered = client.get("/admin/llm_credentials/usercredential/", {"provider__exact": acme})
    assert filtered.context["cl"].result_count == 1


def test_row_works_through_the_factory(acme: str, alice: User) -> None:
    services.credential_save(user=alice, provider=acme, api_key="sbx-good-0123456789")
    response = async_to_sync(client_for(alice).complete)([LLMMessage.user("What is 17 * 23?")])
    assert "391" in response.text
    assert (response.provider, response.receipt.attempts[0].provider) == (acme, acme)


@pytest.mark.parametrize("stream", [False, True])
def test_wire_works_through_the_factory(sayer: str, alice: User, stream: bool) -> None:
    services.credential_save(user=alice, provider=sayer, api_key="say-good")
    client = client_for(alice)

    async def said() -> str:
        if not stream:
            return (await client.complete([LLMMessage.user("Hello")])).text
        return "".join([chunk.text async for chunk in client.stream([LLMMessage.user("Hello")])])

    assert async_to_sync(said)() == "Hello!"


def test_stream_of_the_wire_without_its_end_is_interrupted(sayer: str, alice: User) -> None:
    services.credential_save(user=alice, provider=sayer, api_key="say-good")

    async def said() -> None:
        async for _ in client_for(alice).stream([LLMMessage.user("cut it")]):
            pass

    with pytest.raises(StreamInterrupted):
        async_to_sync(said)()
