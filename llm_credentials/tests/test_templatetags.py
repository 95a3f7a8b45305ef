"""The tags and filters that every page shares."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from django.utils import timezone

from llm_credentials.templatetags import _icons, keyswitch

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=10), "just now"),
        (timedelta(seconds=50), "1 min ago"),
        (timedelta(minutes=2), "2 min ago"),
        (timedelta(hours=3), "3 h ago"),
        (timedelta(hours=30), "yesterday"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=20), "1 Nov 2026"),
    ],
)
def test_ago_words_are_the_shortest_honest_ones(passed: timedelta, words: str) -> None:
    assert keyswitch.ago_words(NOW - passed, NOW) == words


def test_ago_carries_the_exact_time() -> None:
    text = keyswitch.ago(timezone.now() - timedelta(minutes=2))
    assert text.startswith('<time datetime="')
    assert "UTC" in text
    assert keyswitch.ago(None) == "never"


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (None, "cost unknown"),
        (Decimal(0), "$0"),
        (Decimal("12.4"), "$12.40"),
        (Decimal("1234.5"), "$1,234.50"),
        (Decimal("0.0042"), "$0.0042"),
        (Decimal("0.00421"), "$0.0042"),
        (Decimal("0.05"), "$0.05"),
        (Decimal("0.00000001"), "under $0.0001"),
    ],
)
def test_money_has_the_precision_it_deserves(amount: Decimal | None, words: str) -> None:
    assert keyswitch.money(amount) == words


def test_count_groups_digits_and_knows_the_unknown() -> None:
    assert keyswitch.count(1240) == "1,240"
    assert keyswitch.count(None) == "unknown"


@pytest.mark.parametrize(("latency_ms", "words"), [(812, "0.8 s"), (12_300, "12 s"), (None, "")])
def test_seconds_are_short(latency_ms: int | None, words: str) -> None:
    assert keyswitch.seconds(latency_ms) == words


@pytest.mark.parametrize("name", _icons.SHAPES)
def test_icon_is_hidden_unless_it_is_labelled(name: str) -> None:
    assert 'aria-hidden="true"' in keyswitch.icon(name)
    assert 'aria-label="What it is"' in keyswitch.icon(name, label="What it is")


def test_icon_escapes_its_label() -> None:
    assert "<script" not in keyswitch.icon("key", label="<script>")


def test_icon_of_an_unknown_name_fails_at_once() -> None:
    with pytest.raises(KeyError):
        keyswitch.icon("no-such-icon")


@pytest.mark.parametrize(("hue", "style"), [(0, "hue-0"), (7, "hue-0"), (359, "hue-345"), (360, "hue-0")])
def test_monogram_takes_its_hue_from_the_palette(hue: int, style: str) -> None:
    assert f'class="monogram {style}"' in keyswitch.monogram(SimpleNamespace(monogram="AB", hue=hue))


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36",
            "Chrome on Windows",
        ),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1", "Safari on iPhone"),
        ("curl/8.5", "A program or an unknown browser"),
        (None, "A program or an unknown browser"),
    ],
)
def test_browser_is_called_as_people_call_it(user_agent: str | None, words: str) -> None:
    assert keyswitch.browser(user_agent) == words


@pytest.mark.parametrize(
    ("label", "words"),
    [("Remember Me", "Remember me"), ("Email", "Email"), ("Login API Key", "Login API key"), ("", "")],
)
def test_sentence_case_keeps_abbreviations(label: str, words: str) -> None:
    assert keyswitch.sentence(label) == words
