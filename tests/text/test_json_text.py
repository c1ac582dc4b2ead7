from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant.errors import ConfigValueError
from calibrant.text.json_text import is_json, read_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=4), st.sampled_from([None, 1, 4]))
@effort(max_examples=100)
def test_what_the_standard_library_writes_is_read_alike(
    content: dict[str, object], indent: int | None
) -> None:
    text = json.dumps(content, indent=indent)
    assert read_json(text, None).content == content


def test_numbers_keep_their_type() -> None:
    content = read_json('{"a": 1, "b": 1.0, "c": 1e2, "d": -0.5}', None).content
    assert [type(content[k]) for k in "abcd"] == [int, float, float, float]


def test_each_key_path_knows_its_line() -> None:
    document = read_json('{\n "a": {\n  "b": [1,\n 2]}}\n', Path("c.json"))
    assert document.where(("a", "b")) == "c.json:3"
    assert document.where(("a", "b", 1)) == "c.json:4"
    assert document.where(("a", "unknown")) == "c.json:2"


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ('{"a": 1,\n "a": 2}', "c.json:2:2", "'a' stands here and in line 1"),
        ('{"a": {"b": 1, "b": 1}}', "c.json:1:16", "'a.b' stands here"),
        ('{"a": 1,}', "c.json:1:8", "a comma before '}'"),
        ('{"a": [1,]}', "c.json:1:9", "a comma before ']'"),
        ('{\n// no\n"a": 1}', "c.json:2:1", "comments"),
        ('{"a": 1 # no\n}', "c.json:1:9", "comments"),
        ('{"a": NaN}', "c.json:1:7", "a value is expected"),
        ('{"a": -Infinity}', "c.json:1:7", "a value is expected"),
        ('{"a": 01}', "c.json:1:8", "',' or '}' is expected"),
        ("{'a': 1}", "c.json:1:2", "double quotes"),
        ('{"a" 1}', "c.json:1:6", "':' is expected"),
        ('{"a": "x\ny"}', "c.json:1:7", "no closing quote"),
        ('{"a": 1', "c.json:1:8", "the text ends"),
        ('{"a": 1} x', "c.json:1:10", "more behind the end"),
        ('{"a": "\\q"}', "c.json:1:7", "not valid"),
        ('{"a":' + "[" * 200, "c.json:1:", "too deeply"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_column(text: str, place: str, why: str) -> None:
    with pytest.raises(ConfigValueError) as e:
        read_json(text, Path("c.json"))
    assert str(e.value).startswith(place)
    assert why in str(e.value)


def test_an_object_is_known_by_its_brace() -> None:
    assert is_json('\ufeff\n { "a": 1')
    assert not is_json("batch_num: 1")
