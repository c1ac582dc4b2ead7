"""The last check: a written model has the inputs and outputs of the float model, or it is not written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import calibrant.solution
from calibrant.errors import ModelError
from calibrant.graph.interface import check_interface
from calibrant.graph.load import load
from calibrant.graph.values import values_by_name
from calibrant.solution import build
from tests.models import NETS
from tests.road import every_net, quantized

Change = Callable[[ir.Model], None]


def renamed(model: ir.Model) -> None:
    model.graph.outputs[0].name = "other"


def turned_round(model: ir.Model) -> None:
    first, second = model.graph.outputs
    model.graph.outputs.clear()
    model.graph.outputs.extend([second, first])


def one_less(model: ir.Model) -> None:
    model.graph.outputs.pop()


def twice(model: ir.Model) -> None:
    model.graph.outputs[1].name = model.graph.outputs[0].name


def of_another_type(model: ir.Model) -> None:
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def another_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "other"


@pytest.mark.parametrize(
    "change", [renamed, turned_round, one_less, twice, of_another_type, another_input]
)
def test_another_interface_is_a_fault_of_calibrant(change: Change) -> None:
    given = load(NETS["two_in_two_out"]()[0])
    made = given.clone()
    check_interface(made, given)
    change(made)
    with pytest.raises(ModelError, match=r"A fault in calibrant: the file has the (in|out)puts '"):
        check_interface(made, given, "file")


def test_defaults_of_inputs_are_no_inputs_and_unknown_types_agree() -> None:
    given = load(NETS["residual"]()[0])
    made = given.clone()
    given.graph.inputs.append(values_by_name(given.graph)["w1"])
    made.graph.outputs[0].type = None
    check_interface(made, given)


def test_a_build_that_loses_a_name_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    solution = quantized("residual", "generic").solution
    for emitter, what in (
        ("emit_qdq", "deployable model"),
        ("emit_fake_quant", "fake-quant model"),
    ):
        emit = getattr(calibrant.solution, emitter)

        def broken(*parts: Any, emit: Any = emit) -> ir.Model:
            model: ir.Model = emit(*parts)
            renamed(model)
            return model

        with monkeypatch.context() as patch:
            patch.setattr(calibrant.solution, emitter, broken)
            with pytest.raises(ModelError, match=what):
                build(solution)


@pytest.mark.parametrize("name", every_net())
def test_every_written_model_has_the_interface_of_the_float_model(
    name: str, tmp_path: Path
) -> None:
    result = quantized(name, "generic")
    result.save(tmp_path, formats=("ascend", "horizon"))
    given = load(NETS[name]()[0])
    written = sorted(tmp_path.glob("*.onnx"))
    assert len(written) > 5
    for path in written:
        check_interface(ir.load(path), given, path.name)
