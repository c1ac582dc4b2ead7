"""Inputs to fix, as the command line, Python and recipes say them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.recipe import FixedInput
from calibrant.recipe.fixed import FixedValue, as_fixed, fixed_by_text, merged

TEXTS: dict[str, FixedValue] = {
    "16000": 16000,
    "-1": -1,
    "0.5": 0.5,
    "1e-3": 1e-3,
    ".5": 0.5,
    "true": True,
    "False": False,
    "[224, 224]": (224, 224),
    "224,160": (224, 160),
    "[[1, 2], [3, 4.5]]": ((1, 2), (3, 4.5)),
    "[true]": (True,),
    "[true, False]": (True, False),
    "de": "de",
    '"16000"': "16000",
    "[de, en]": ("de", "en"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_is_read_from_text(text: str) -> None:
    (found,) = fixed_by_text([f"input:0={text}"], "--fix")
    assert found == FixedInput("input:0", TEXTS[text])
    assert type(found.value) is type(TEXTS[text])
    assert found.origin == f"--fix input:0={text}"


@pytest.mark.parametrize("text", ["sr", "=1", "sr=", "sr= "])
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigValueError, match=r"--fix is '.*'; it is NAME=VALUE"):
        fixed_by_text([text], "--fix")


def test_one_input_stands_once() -> None:
    with pytest.raises(ConfigValueError, match="--fix names input 'sr' twice"):
        fixed_by_text(["sr=1", "sr=2"], "--fix")


def test_arrays_and_lists_are_values_and_objects_are_none() -> None:
    values: dict[str, Any] = {"a": np.array([1, 2]), "b": [[1.5]], "c": np.float32(0.5), "d": True}
    found = {f.name: f.value for f in as_fixed(values)}
    assert found == {"a": (1, 2), "b": ((1.5,),), "c": 0.5, "d": True}
    for value in (None, {"x": 1}, object()):
        with pytest.raises(
            ConfigTypeError, match=r"fix: input 'e' is to be fixed to a \w+; a value is"
        ):
            as_fixed({"e": value})


def test_the_later_of_two_wins_and_the_order_stays() -> None:
    found = merged(as_fixed({"a": 1, "b": 2}), as_fixed({"a": 3, "c": 4}))
    assert [str(f) for f in found] == ["a=3", "b=2", "c=4"]


def test_a_fixed_input_is_shown_as_the_command_line_takes_it() -> None:
    for text in ("sr=16000", "training=false", "size=[224, 160]", "lang=de"):
        (found,) = fixed_by_text([text], "--fix")
        assert str(found) == text
        assert fixed_by_text([str(found)], "") == (found,)
