from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    DeadlineExceeded,
    ImagePart,
    LLMError,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    UnsupportedContent,
)
from llm_credentials.providers.failures import MAX_RETRY_AFTER_S, retry_after_s
from llm_credentials.providers.wire import (
    AnswerIds,
    IdRule,
    WireIds,
    data_url,
    encode_json,
    parse_arguments,
    safe_code,
    status_error,
    strip_suffixes,
)

NINE = IdRule(pattern=re.compile(r"[a-zA-Z0-9]{9}"), length=9, prefix="")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, RequestRejected),
        (401, AuthenticationFailed),
        (402, QuotaExhausted),
        (403, PermissionDenied),
        (404, RequestRejected),
        (405, RequestRejected),
        (408, DeadlineExceeded),
        (409, ProviderUnavailable),
        (413, RequestRejected),
        (422, RequestRejected),
        (429, RateLimited),
        (500, ProviderUnavailable),
        (502, ProviderUnavailable),
        (503, ProviderUnavailable),
        (504, ProviderUnavailable),
        (529, ProviderUnavailable),
        (302, BadProviderResponse),
        (204, BadProviderResponse),
    ],
)
def test_status_error_knows_every_status(status: int, expected: type[LLMError]) -> None:
    assert status_error(status) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "1000000000"}, MAX_RETRY_AFTER_S),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Mon, 99 Foo 2026 00:00:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_retry_after_reads_what_makes_sense(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_retry_after_reads_a_date_to_come() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=90)
    seconds = retry_after_s({"retry-after": format_datetime(moment, usegmt=True)})
    assert seconds is not None
    assert 60 < seconds <= 90


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"city": "Oslo"}', ({"city": "Oslo"}, None)),
        ("", ({}, None)),
        ("  \n", ({}, None)),
        ('{"city": "Os', ({}, '{"city": "Os')),
        ("[1, 2]", ({}, "[1, 2]")),
        ("null", ({}, "null")),
        ('{"n": NaN}', ({}, '{"n": NaN}')),
    ],
)
def test_parse_arguments_keeps_the_text_of_what_is_no_object(text: str, expected: object) -> None:
    assert parse_arguments(text) == expected


def test_parse_arguments_survives_nesting() -> None:
    text = '{"a":' * 20_000 + "1" + "}" * 20_000
    assert parse_arguments(text) == ({}, text)


def test_wire_ids_leave_a_valid_id_alone() -> None:
    ids = WireIds(NINE)
    assert ids.call("abcDEF123") == "abcDEF123"
    assert ids.result("abcDEF123") == "abcDEF123"


def test_wire_ids_map_an_invalid_id_the_same_way_each_time() -> None:
    first, second = WireIds(NINE), WireIds(NINE)
    mapped = first.call("toolu_01A09q90qw90lq917835lq9")
    assert NINE.pattern.fullmatch(mapped)
    assert second.call("toolu_01A09q90qw90lq917835lq9") == mapped
    assert first.result("toolu_01A09q90qw90lq917835lq9") == mapped


def test_wire_ids_tell_apart_two_calls_that_share_an_id() -> None:
    ids = WireIds(IdRule(pattern=re.compile(r"[a-z0-9_]+")))
    first = ids.call("call_0")
    assert ids.result("call_0") == first
    second = ids.call("call_0")
    assert second != first
    assert ids.result("call_0") == second


def test_wire_ids_take_a_result_without_its_call() -> None:
    assert WireIds(NINE).result("abcDEF123") == "abcDEF123"


def test_answer_ids_keep_the_providers_own() -> None:
    assert AnswerIds("r").take("call_1") == "call_1"


@pytest.mark.parametrize("given", [None, "", 7])
def test_answer_ids_make_what_is_missing_the_same_way_each_time(given: object) -> None:
    assert AnswerIds("resp_1").take(given) == AnswerIds("resp_1").take(given)
    assert AnswerIds("resp_1").take(given) != AnswerIds("resp_2").take(given)


def test_answer_ids_never_give_one_twice() -> None:
    ids = AnswerIds("resp_1")
    assert len({ids.take("same"), ids.take("same"), ids.take(None), ids.take(None)}) == 4


def test_data_url_becomes_bytes() -> None:
    image = data_url(ImagePart(url="data:image/png;base64,iVBORw0="))
    assert (image.data, image.media_type) == (b"\x89PNG\r", "image/png")


@pytest.mark.parametrize("url", ["data:image/png;base64,***", "data:;base64,iVBORw0=", "data:image/png", "data:,"])
def test_data_url_that_is_malformed_is_refused(url: str) -> None:
    with pytest.raises(UnsupportedContent):
        data_url(ImagePart(url=url))


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ("https://h/", "https://h"),
        (" https://h/v1/ ", "https://h"),
        ("https://h/v1/v1", "https://h"),
        ("https://h/v1/messages", "https://h"),
        ("https://h/prefix/V1", "https://h/prefix"),
        ("https://h/api-v1", "https://h/api-v1"),
    ],
)
def test_strip_suffixes_mends_a_pasted_address(pasted: str, expected: str) -> None:
    assert strip_suffixes(pasted, ("/messages", "/v1")) == expected


def test_encode_json_takes_numbers_past_64_bits() -> None:
    assert encode_json({"n": 2**70}) == b'{"n": 1180591620717411303424}'


def test_encode_json_refuses_half_a_surrogate_pair() -> None:
    with pytest.raises(RequestRejected):
        encode_json({"text": "\ud83d"})


def test_encode_json_refuses_nan_beside_a_long_number() -> None:
    with pytest.raises(RequestRejected):
        encode_json({"n": 2**70, "x": float("nan")})


@pytest.mark.parametrize("value", ["sk-secret key", "a" * 65, "", None, 7, "línea"])
def test_safe_code_drops_what_is_no_code(value: object) -> None:
    assert safe_code(value) is None
