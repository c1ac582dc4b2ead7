from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.text.textproto import field_names, parse, set_aside
from calibrant.text.textproto_schema import Enum, Int32, Message, Named, UInt32

FILE = Path("a.cfg")


class Inner(Message):
    key: str
    ratio: Annotated[float, Field(gt=0.5, le=1)] | None = None
    flag: bool | None = None


class Other(Message):
    steps: UInt32 = 3


class Outer(Message):
    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {"choice": ("inner", "other")}
    EXCLUSIVE: ClassVar[tuple[str, ...]] = ("choice",)

    count: UInt32 | None = None
    shift: Int32 = 0
    ratio: float = 0.0
    high: Annotated[float, Named({"PERCENTILE_MID": 0.99999})] = 1.0
    kind: Annotated[str, Enum({"INT8": 1, "INT16": 2})] = "INT8"
    names: list[str] = Field(default=[])
    inner: Inner | None = None
    other: Other | None = None
    parts: list[Inner] = Field(default=[])


def test_every_form_of_the_text_is_read() -> None:
    text = """
    # comment
    count: 0x10, shift : -2; ratio: 0.01
    kind: INT16
    names: "a#" 'b'  names: ["c", "d"]   # texts side by side are one
    other { steps: 5 }
    parts: < key: "x" flag: t >
    parts: [{key: 'y'}, {key: 'z' ratio: 0.6}]
    """
    content = parse(text, None, Outer)[0]
    assert (content.count, content.shift, content.ratio, content.kind) == (16, -2, 0.01, "INT16")
    assert content.names == ["a#b", "c", "d"]
    assert content.other == Other(steps=5)
    assert [p.key for p in content.parts] == ["x", "y", "z"]
    assert content.parts[0].flag is True


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_as_the_shortest_decimal_of_its_float32(value: float) -> None:
    shortest = str(np.float32(value))
    assert repr(parse(f"ratio: {value!r}", None, Outer)[0].ratio) == repr(float(shortest))


@pytest.mark.parametrize("text", ["0.999999", "0.01", "0.7", "1.3", "1e-05"])
def test_a_decimal_of_a_configuration_stays_as_written(text: str) -> None:
    assert parse(f"ratio: {text}", None, Outer)[0].ratio == float(text)


def test_a_number_by_name() -> None:
    assert parse("high: PERCENTILE_MID", None, Outer)[0].high == 0.99999
    assert parse("high: 0.75", None, Outer)[0].high == 0.75


def test_enumerations_by_number() -> None:
    assert parse("kind: 2", None, Outer)[0].kind == "INT16"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("inner { key: 'a' }\nother {}", "a.cfg:2:1: inner and other exclude each other; one"),
        ("other {}\n\n inner { key: 'a' }", "a.cfg:3:2: other and inner exclude each other; one"),
    ],
)
def test_fields_that_exclude_each_other_are_refused(text: str, place: str) -> None:
    with pytest.raises(ConfigValueError, match=place):
        parse(text, FILE, Outer)


class Lenient(Message):
    ONEOFS: ClassVar[Mapping[str, tuple[str, ...]]] = {"choice": ("inner", "other")}

    inner: Inner | None = None
    other: Other | None = None


def test_of_another_choice_the_last_one_counts_and_it_is_noted() -> None:
    content, _, notes = parse("inner { key: 'a' }\nother {}", FILE, Lenient)
    assert content == Lenient(other=Other())
    assert [(n.where, n.honoured) for n in notes] == [("a.cfg:2:1", True)]
    assert "inner and other exclude each other; the last one, other" in notes[0].message


def test_all_errors_of_a_text_are_told_in_their_order() -> None:
    text = (
        "cuont: 1\n"
        "ratio: high, kind: INT4\n"
        "inner { key: 3 flag: true }\n"
        "names: ['a', 5]  other { steps: 3 }\n"
        "parts { key: 'b' falg: true }  parts { key: 'c' }"
    )
    with pytest.raises(ConfigValueError) as caught:
        parse(text, FILE, Outer)
    told = [str(part).split(";")[0] for part in caught.value.parts]
    assert [t.split(" ")[0] for t in told] == [
        "a.cfg:1:1:",
        "a.cfg:2:8:",
        "a.cfg:2:20:",
        "a.cfg:3:14:",
        "a.cfg:4:14:",
        "a.cfg:5:18:",
        "a.cfg:4:18:",
    ]
    assert "missing" not in str(caught.value)  # what is wrong is there
    assert str(caught.value).startswith("a.cfg:1:1: cuont is not known.")


def test_an_error_of_syntax_ends_the_list() -> None:
    with pytest.raises(ConfigValueError) as caught:
        parse("cuont: 1\ncount: x\nother {", FILE, Outer)
    assert [str(p).split(" ")[0] for p in caught.value.parts] == [
        "a.cfg:1:1:",
        "a.cfg:2:8:",
        "a.cfg:3:7:",
    ]
    assert "not valid protobuf text" in str(caught.value.parts[-1])


def test_fields_are_set_aside_by_name() -> None:
    text = "count: 1\nfar { x: 1\n y { } } near: 2; far { }\ncount: 2"
    rest, found = set_aside(text, FILE, {"far", "near"})
    assert rest.split() == ["count:", "1", "count:", "2"]
    assert [len(line) for line in rest.split("\n")] == [len(line) for line in text.split("\n")]
    assert found == {"far": "a.cfg:2:1", "near": "a.cfg:3:10"}


def test_a_field_that_stands_twice_counts_as_last_written_and_it_is_noted() -> None:
    content, _, notes = parse("count: 1\n count: 2", FILE, Outer)
    assert content.count == 2
    assert (notes[0].where, notes[0].message) == (
        "a.cfg:2:2",
        "count stands in line 1 as well; the last one counts.",
    )
    content, _, notes = parse("other { steps: 1 }\nother { }", FILE, Outer)
    assert content.other == Other(steps=1)
    assert "merged" in notes[0].message


def test_places_of_fields_inside_repeated_messages() -> None:
    document = parse("parts { key: 'a' }\nparts {\n  key: 'b' }", FILE, Outer)[1]
    assert document.where(("parts", 1)) == "a.cfg:2:1"
    assert document.where(("parts", 1, "key")) == "a.cfg:3:3"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("cuont: 1", ConfigValueError, "a.cfg:1:1: cuont is not known. Known: count, shift, ratio"),
        ("cuont: 1", ConfigValueError, "Did you mean 'count'?"),
        ("\nother {\n setps: 1 }", ConfigValueError, "a.cfg:3:2: other.setps is not known. Known: steps. Did"),
        ("count: -1", ConfigValueError, "a.cfg:1:8: count is -1; it lies in [0, 4294967295]."),
        ("shift: 9999999999", ConfigValueError, "it lies in [-2147483648, 2147483647]."),
        ("count: 1.5", ConfigTypeError, "a.cfg:1:8: count is 1.5; it is a whole number."),
        ("count: 'x'", ConfigTypeError, "a.cfg:1:8: count is 'x'; it is a whole number."),
        ("ratio: much", ConfigTypeError, "a.cfg:1:8: ratio is much; it is a number."),
        ("high: HIGH", ConfigValueError, "high is HIGH; it is a number or PERCENTILE_MID."),
        ("parts { key: 'a' flag: maybe }", ConfigTypeError, "a.cfg:1:24: parts[0].flag is maybe; it is true or"),
        ("kind: INT9", ConfigValueError, "a.cfg:1:7: kind is INT9; it is one of INT8, INT16. Did you mean"),
        ("kind: 7", ConfigValueError, "kind is 7; it is one of INT8, INT16."),
        ("inner { }", ConfigValueError, "a.cfg:1:1: inner.key is missing."),
        ("inner { key: 'a' ratio: 0.3 }", ConfigValueError, "a.cfg:1:18: inner.ratio is 0.3; it has to be greater"),
        ("inner { key: 'a'", ConfigValueError, 'this is not valid protobuf text: Expected "}".'),
        ("count 1", ConfigValueError, "a.cfg:1:7: this is not valid protobuf text"),
        ("names: 'a", ConfigValueError, "a.cfg:1:8: this is not valid protobuf text: String missing"),
        ("inner: 5", ConfigValueError, "this is not valid protobuf text"),
        ("}", ConfigValueError, "a.cfg:1:1: this is not valid protobuf text"),
        ("count:\n", ConfigValueError, "a.cfg:2:1: this is not valid protobuf text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        parse(text, FILE, Outer)
    assert message in str(e.value)


def test_dots_that_stand_for_what_was_left_out_are_passed_over_and_noted() -> None:
    content, _, notes = parse(
        "count: 1\n...\nnames: '...' other { ... steps: 2 ... }", FILE, Outer
    )
    assert (content.count, content.names, content.other) == (1, ["..."], Other(steps=2))
    assert [n.where for n in notes] == ["a.cfg:2:1", "a.cfg:3:22", "a.cfg:3:35"]


def test_a_text_whose_line_breaks_are_lost_is_read_and_noted() -> None:
    content, _, notes = parse("# global parameter count : 2 other { steps: 4 }", FILE, Outer)
    assert (content.count, content.other) == (2, Other(steps=4))
    assert "line breaks are lost" in notes[0].message


def test_a_comment_is_no_configuration() -> None:
    assert parse("# counting", FILE, Outer)[0] == Outer()


def test_names_of_the_outermost_fields() -> None:
    assert field_names("a: 1 b { c: 2 } # d: 3\ne: 'f: 4'") == {"a", "b", "e"}
    assert field_names("# hello a : 1 b : { c: 2 }") == {"a", "b", "c"}


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        said = [""]
        parse(text, FILE, Outer)
    except (ConfigValueError, ConfigTypeError) as e:
        said = [str(part) for part in e.parts or (e,)]
    assert said == [""] or all(s.startswith("a.cfg:") and "\n" not in s for s in said)


@given(st.lists(st.text(), max_size=4))
def test_texts_survive(names: list[str]) -> None:
    text = "\n".join(f"names: {json.dumps(n)}" for n in names if "\\u" not in json.dumps(n))
    assert parse(text, None, Outer)[0].names == [n for n in names if "\\u" not in json.dumps(n)]
