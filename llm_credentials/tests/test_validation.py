from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from llm_credentials import validation
from llm_credentials.providers import OptionField, ProviderSpec, get_spec

GOOD = "sk-proj-0123456789abcdef-WXYZ"


def openai() -> ProviderSpec:
    return get_spec("openai")


BAD_KEYS = {
    "newline inside": f"{GOOD}\nX-Evil: 1",
    "CRLF and a header": f"{GOOD}\r\nX-Evil: 1",
    "NUL": f"{GOOD}\0",
    "NUL inside": f"sk-\0{GOOD}",
    "tab": f"sk-\t{GOOD}",
    "escape": f"sk-\x1b{GOOD}",
    "delete": f"sk-\x7f{GOOD}",
    "space inside": f"Bearer {GOOD}",
    "byte order mark": f"\ufeff{GOOD}",
    "zero width space": f"sk-\u200b{GOOD}",
    "curly quotes": f"\u201c{GOOD}\u201d",
    "no-break space inside": f"sk-\u00a0{GOOD}",
    "emoji": f"{GOOD}\U0001f511",
    "lone surrogate": f"{GOOD}\ud83d",
    "umlaut": f"{GOOD}ü",
    "four characters": "sk-1",
    "seven characters": "sk-1234",
    "over 4 KiB": "sk-" + "a" * 4094,
    "one megabyte": "k" * 1_000_000,
    "token of this site": "ksw_" + "a" * 43,
    "private key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----",
    "private key on one line": "-----BEGIN RSA PRIVATE KEY-----MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    "service account": '{"type": "service_account", "private_key": "x"}',
    "fernet token": "gAAAAABk0123456789012345678901234567890",
    "sealed text": "v1:t1:gAAAAABk0123456789012345678901234567890",
    "other systems' sealed text": "enc:fernet:k1:abcdefgh",
    "placeholder": "xxxxxxxxxxxx",
    "not a text": 12345678,
    "bytes": b"sk-proj-0123456789",
    "list": [GOOD],
}


@pytest.mark.parametrize("typed", BAD_KEYS.values(), ids=BAD_KEYS.keys())
@pytest.mark.parametrize("stored", [False, True])
def test_api_key_bad_input_is_refused_without_repeating_it(typed: Any, stored: bool) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.clean_api_key(typed, stored=stored)
    assert list(caught.value.message_dict) == ["api_key"]
    error: BaseException | None = caught.value
    while error is not None:
        shown = repr(error) + repr(vars(error))
        assert str(typed) not in shown
        assert GOOD not in shown
        error = error.__context__


@pytest.mark.parametrize("typed", [f"  {GOOD}\n", f"{GOOD}\r\n", f"\t{GOOD}", GOOD, f"\u00a0{GOOD}\u00a0"])
def test_api_key_is_trimmed_once_at_its_ends(typed: str) -> None:
    assert validation.clean_api_key(typed) == GOOD


@pytest.mark.parametrize("typed", [None, "", "   ", "\n", "\t\r\n", "\u00a0"])
def test_api_key_nothing_typed_means_unchanged(typed: str | None) -> None:
    assert validation.clean_api_key(typed) is None


@pytest.mark.parametrize("mask", ["•••• 4f2a", "••••", "****abcd", "***", "••••4f2a", " •••• 4f2a "])
def test_api_key_mask_sent_back_means_unchanged_only_where_a_key_is(mask: str) -> None:
    assert validation.clean_api_key(mask, stored=True) is None
    with pytest.raises(ValidationError, match="masked form"):
        validation.clean_api_key(mask)


@pytest.mark.parametrize(
    "key", ["12345678", "a" * 4096, "AIzaSyA_-0123456789", "gsk_abc.def/ghi+jkl=", "sk-ant-!#$%&'()*"]
)
def test_api_key_good_input_passes_as_it_is(key: str) -> None:
    assert validation.clean_api_key(key) == key


@pytest.mark.parametrize(
    "model",
    [
        "../../../admin",
        "..%2f",
        "..",
        "models/../../x",
        "models/..",
        "a?x=1",
        "a#f",
        "a b",
        "a b\r\nX: 1",
        "gpt\n4",
        "gpt\x004",
        "/etc/passwd",
        "\\windows",
        "a//b",
        "models/",
        "./x",
        "a/./b",
        "a..b",
        "m" * 201,
        "m" * 10_240,
        "gpt-4o\u200b",
        "<script>",
        "%2e%2e",
        "sk-proj-0123456789abcdefghij",
        7,
        ["gpt-4o"],
    ],
)
def test_model_bad_input_is_refused(model: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.clean_model(model)
    assert list(caught.value.message_dict) == ["model"]


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "org/model:tag",
        "models/gemini-2.0-flash",
        "ft:gpt-4o-mini:acme::AbC123",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "@cf/meta/llama-3",
        "claude-sonnet@20250514",
        "llama3.2:1b-instruct-q4_K_M",
        "m" * 200,
    ],
)
def test_model_good_input_passes(model: str) -> None:
    assert validation.clean_model(f" {model} ") == model


def test_model_empty_means_the_default() -> None:
    assert validation.clean_model("  ") == ""


@pytest.mark.parametrize("name", ["", " ", "two words", "-x", "a/b", "..", "x" * 41, "ü", "a\nb", None, 3, "<b>"])
def test_name_bad_input_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.clean_name(name)
    assert list(caught.value.message_dict) == ["name"]


@pytest.mark.parametrize("name", ["default", "work-2", "Team_A", "9", "x" * 40])
def test_name_good_input_passes(name: str) -> None:
    assert validation.clean_name(name) == name


@pytest.mark.parametrize(
    "slug", ["", "nope", "OPENAI", "openai ", "../openai", None, 7, "sk-proj-0123456789abcdefghij"]
)
def test_provider_unknown_is_named_as_the_field_and_not_repeated(slug: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.clean_provider(slug)
    assert caught.value.message_dict == {"provider": ["There is no such provider. Choose one from the list."]}


def spec_with_options() -> ProviderSpec:
    return ProviderSpec(
        slug="x",
        label="X",
        client="",
        base_url=None,
        options=(
            OptionField(name="api_version", label="API version", required=True),
            OptionField(name="deployment", label="Deployment"),
            OptionField(name="webhook_secret", label="Webhook secret", secret=True),
        ),
    )


def test_options_declared_ones_are_trimmed_and_empty_ones_left_out() -> None:
    options = {"api_version": " 2026-01-01 ", "deployment": ""}
    assert validation.clean_options(options, spec_with_options()) == {"api_version": "2026-01-01"}


@pytest.mark.parametrize(
    "options",
    [
        {"api_version": "1", "extra_headers": "X: 1"},
        {"api_version": "1", "user_id": "1"},
        {"api_version": "1", "webhook_secret": "s3cret"},
        {"api_version": "1", "deployment": ["a"]},
        {"api_version": "1", "deployment": None},
        {"api_version": "1", "deployment": {"a": 1}},
        {"api_version": "1\r\nX: 1"},
        {"api_version": "1\0"},
        {"api_version": "\ud800"},
        {"api_version": "x" * 501},
        {"api_version": "1", "deployment": "sk-proj-0123456789abcdefghij"},
        {"api_version": " "},
        {},
        [],
        "api_version=1",
        None,
        7,
    ],
)
def test_options_bad_input_is_refused(options: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.clean_options(options, spec_with_options())
    assert list(caught.value.message_dict) == ["options"]


@pytest.mark.parametrize("priority", [-1, 10_001, 2**63, True, "1", 1.5, None, float("nan")])
def test_priority_bad_input_is_refused(priority: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.clean_priority(priority)
    assert list(caught.value.message_dict) == ["priority"]


@pytest.mark.parametrize(
    "value", [{"a": [{"b": "sk-proj-0123456789abcdefghij"}]}, "v1:k:x", {"sk-proj-0123456789abcdefghij": 1}]
)
def test_config_with_a_key_in_it_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="system credential"):
        validation.clean_config(value)


def test_config_nested_without_end_is_refused() -> None:
    value: list[Any] = []
    for _ in range(50):
        value = [value]
    with pytest.raises(ValidationError, match="nested"):
        validation.clean_config(value)


def test_config_without_a_key_passes() -> None:
    value = {"provider": "openai", "model": "gpt-4o", "max_tokens": 4096, "temperature": 0.7, "endpoint": None}
    assert validation.clean_config(value) == value


@pytest.mark.parametrize(
    "address",
    ["http://10.0.0.1/v1", "https://169.254.169.254/v1", "https://redis/v1", "https://alice:pw@models.example/v1"],
)
def test_address_that_may_not_be_called_is_not_stored(db: None, address: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validation.validate_destination("openai_compatible", address)
    assert set(caught.value.message_dict) == {"base_url"}
