import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.parts import dump_parts, load_parts
from llm_credentials.providers import ImagePart, ReasoningPart, TextPart, ToolCall, ToolResult

TEXT = st.text(st.characters())  # lone surrogates and NUL included
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT, st.lists, max_leaves=5
)
DETAILS = st.dictionaries(TEXT, JSON, max_size=2)
IMAGES = st.tuples(st.builds(ImagePart, data=st.binary(), media_type=st.just("image/png")))
PARTS = st.one_of(
    st.builds(TextPart, text=TEXT, details=DETAILS),
    st.builds(ReasoningPart, text=TEXT, details=DETAILS),
    st.builds(ImagePart, data=st.binary(), media_type=st.just("image/png")),
    st.builds(ImagePart, url=TEXT),
    st.builds(
        ToolCall,
        id=TEXT,
        name=TEXT,
        arguments=st.dictionaries(TEXT, JSON, max_size=2),
        invalid_arguments=st.none() | TEXT,
        details=DETAILS,
    ),
    st.builds(ToolResult, call_id=TEXT, name=TEXT, content=TEXT, is_error=st.booleans(), images=st.tuples() | IMAGES),
)


@given(st.lists(PARTS, max_size=4))
def test_parts_survive_storage(parts: list) -> None:  # type: ignore[type-arg]
    stored = dump_parts(parts)
    assert stored.isascii()
    assert "\x00" not in stored
    assert load_parts(stored) == tuple(parts)


def test_parts_refuse_a_type_they_never_wrote() -> None:
    with pytest.raises(ValueError, match="unknown type 'video'"):
        load_parts('[{"type": "video"}]')
