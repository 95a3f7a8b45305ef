from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User

from agents import sse
from agents.loop import Text, ToolEnd, ToolStart
from agents.tests.live import SandboxJournal, Visitor, sandbox_key
from agents.tests.scripted import call
from agents.tests.test_stream import ask, stream_path
from llm_credentials.providers import ToolResult
from project.tests.servers import wait_until


def test_event_is_one_line_of_data_whatever_it_holds() -> None:
    sent = sse.sse("text", {"html": "a\nb\r\n\n\u2028event: x\n"}).decode()
    event, data, *rest = sent.split("\n")
    assert event == "event: text"
    assert json.loads(data.removeprefix("data: ")) == {"html": "a\nb\r\n\n\u2028event: x\n"}
    assert rest == ["", ""]


def test_live_text_sends_finished_blocks_once() -> None:
    live = sse.LiveText()
    first = live.add("One **bo")
    assert (first["html"], first["tail"]) == ("", "<p>One **bo</p>\n")
    second = live.add("ld** word.\n\nTwo")
    assert second["html"] == "<p>One <strong>bold</strong> word.</p>\n"
    assert second["tail"] == "<p>Two</p>\n"
    third = live.add(" more")
    assert (third["html"], third["tail"]) == ("", "<p>Two more</p>\n")


def test_live_text_never_sends_half_a_tag() -> None:
    live = sse.LiveText()
    shown = "".join(live.add(piece)["tail"] for piece in ("<scr", "ipt>alert(1)</s", "cript>"))
    assert "<script" not in shown
    assert "&lt;scr" in shown


def test_live_text_sends_a_long_block_less_often() -> None:
    live = sse.LiveText()
    live.add("short")
    quick = live.pause_s
    live.add("```\n" + "x = 1\n" * 5000)
    assert live.pause_s > 5 * quick


def test_tools_are_told_of_by_name_and_state_only() -> None:
    events = [
        Text(text="Let me see."),
        ToolStart(call=call("add", a="secret")),
        ToolEnd(result=ToolResult(call_id="c1", name="add", content="secret", is_error=True), latency_ms=3),
    ]
    chunks = b"".join(sse._chunks(events, sse.LiveText())).decode()
    assert '{"id":"c1","name":"add","state":"running"}' in chunks
    assert '{"id":"c1","name":"add","state":"failed"}' in chunks
    assert "secret" not in chunks


def test_silence_is_filled_with_comments(
    live_site: str, alice: User, journal: SandboxJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.1)
    sandbox_key(alice, model="sandbox-chat~fault=stall-first")
    stream = Visitor.of(live_site, alice).read(stream_path(ask(alice)))
    lines = [stream.answer.readline() for _ in range(8)]
    assert lines.count(b": still here\n") >= 2
    wait_until(journal.chats, "the upstream call")  # which may come after the first comments
    stream.leave()
    journal.wait_gone()


def test_thoughts_are_shown_apart_and_kept(live_site: str, alice: User, journal: SandboxJournal) -> None:
    sandbox_key(alice, model="sandbox-reasoner")
    answer = ask(alice)
    events = Visitor.of(live_site, alice).read(stream_path(answer)).rest()
    thought = "".join(data["text"] for kind, data in events if kind == "reasoning")
    answer.refresh_from_db()
    assert thought
    assert answer.reasoning == thought
    assert "What the model thought" in events[-1][1]["html"]
    assert thought not in answer.text
