"""What met a requirement is tried first for the next model of the same structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import calibrant
from calibrant.demo import digits
from calibrant.errors import DataError
from calibrant.graph.load import load
from calibrant.graph.structure import structure_digest
from calibrant.tuner.knowledge import Knowledge
from calibrant.tuning.menu import Menu
from tests.models import NETS
from tests.models.rescaled import rescaled

MENU = Menu(("a", "b"), ("int8", "int16"), np.array([[8.0, 16.0], [80.0, 160.0]]))


def test_weights_and_names_do_not_count_and_all_else_does() -> None:
    model = NETS["residual"]()[0]
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))
    for i, node in enumerate(other.graph.node):
        node.name = f"renamed{i}"
    assert structure_digest(load(model)) == structure_digest(load(other))
    digests = {
        structure_digest(load(net()[0]))
        for name, net in NETS.items()
        if not name.startswith("opset")
    }
    assert len(digests) > 0.9 * len([n for n in NETS if not n.startswith("opset")])


def test_only_what_fits_is_given_back_the_cheapest_first(tmp_path: Path) -> None:
    known = Knowledge(tmp_path, "abc", "generic")
    assert known.assignments(MENU) == []
    known.add(("int16", "int16"), {})
    known.add(("int16", "int8"), {"required": "at least 1"})
    known.add(("int16", "int8"), {})
    known.add(("float32", "int8"), {})
    known.add(("int8",), {})
    assert known.assignments(MENU) == [("int16", "int8"), ("int16", "int16")]
    assert Knowledge(tmp_path, "abc", "onnxruntime").assignments(MENU) == []
    assert Knowledge(tmp_path, "abd", "generic").assignments(MENU) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 1}',
        '{"version": 2, "met": []}',
        '{"version": 1, "met": [{"target": 3}]}',
    ],
)
def test_a_file_of_something_else_is_an_error_and_stays(text: str, tmp_path: Path) -> None:
    known = Knowledge(tmp_path, "abc", "generic")
    known.path.write_text(text)
    with pytest.raises(DataError, match="does not hold"):
        known.add(("int8", "int8"), {})
    assert known.path.read_text() == text


def test_the_next_model_of_a_kind_tries_what_was_found(tmp_path: Path) -> None:
    from calibrant.recipe import AllNodes, Recipe, Rule, Settings
    from tests.models import convolution
    from tests.road import batches

    net, feeds = convolution.residual()
    as_it_is = Recipe((Rule(AllNodes(), Settings(activation_per_channel=False)),), equalize="off")
    options: dict[str, Any] = {
        "moves": "none",
        "recipe": as_it_is,
        "allow": "int8,int16",
        "knowledge": tmp_path,
    }
    first = calibrant.tune(
        rescaled(net, "w1", "w2"), batches(feeds), None, "min 0.9995", **options
    )
    again = calibrant.tune(
        rescaled(net, "w1", "w2", seed=3), batches(feeds), None, "min 0.9995", **options
    )
    assert first.met
    assert again.met
    assert again.search.trials[1].phase == "known from before"
    assert again.search.trials[1].assignment == first.best.assignment
    assert (
        again.counts.full <= first.counts.full + 1
    )  # the float model, the cheapest, what is known, one that costs less


def test_digits_that_pass_at_once_are_remembered_too(tmp_path: Path) -> None:
    result = calibrant.tune(
        digits.MODEL, {"image": digits.calibration().image}, None, "min 0.5", knowledge=tmp_path
    )
    assert result.met
    assert len(list(tmp_path.iterdir())) == 1
