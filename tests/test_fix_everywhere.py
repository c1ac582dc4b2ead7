"""An input that chooses a branch is fixed in every command that reads a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibrant
from calibrant.cli import main

RNG = np.random.default_rng(0)
FIX = ["--fix", "sr=16000"]


def _branch(name: str) -> onnx.GraphProto:
    weight = numpy_helper.from_array(RNG.normal(0, 0.5, (6, 4)).astype(np.float32), f"w_{name}")
    out = helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, ["n", 4])
    product = helper.make_node("MatMul", ["x", f"w_{name}"], [f"y_{name}"], name=f"layer_{name}")
    return helper.make_graph([product], name, [], [out], [weight])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=_branch("a"), else_branch=_branch("b")),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.array(16000), "rate")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    x = np.random.default_rng(1).normal(0, 1, (24, 6)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_command_takes_it(folder: Path) -> None:
    model, data = "model.onnx", ["--data", "calib.npz"]
    assert main(["quantize", model, *data, *FIX, "--no-latency", "--out", "run"]) == 0
    assert main(["sensitivity", model, *data, *FIX]) == 0
    assert main(["advise", model, *data, *FIX, "--out", "advised"]) == 0
    assert "layer_a" in (folder / "advised" / "advice.json").read_text()
    assert main(["compare", model, "run/deploy.onnx", *data, *FIX, "--out", "compared"]) == 0
    assert "layer_a" in (folder / "compared" / "compare.csv").read_text()
    tuned = ["tune", model, *data, *FIX, "--min", "0.9", "--moves", "none", "--out", "tuned"]
    assert main(tuned) == 0
    again = ["tune", "--from", "tuned", "--min", "0.8", "--out", "again"]
    assert main(again) == 0
    for run in ("tuned", "again"):
        assert "layer_a" in (folder / run / "plan.json").read_text()


def test_a_fixed_input_of_python(folder: Path) -> None:
    fix = {"sr": 8000}
    ranking = calibrant.sensitivity("model.onnx", "calib.npz", fix=fix)
    assert [layer.name.split("__")[-1].split("/")[-1] for layer in ranking.layers] == ["layer_b"]
    result = calibrant.quantize("model.onnx", "calib.npz", fix=fix, latency=False)
    result.save("eight")
    report = calibrant.compare("model.onnx", "eight/deploy.onnx", "calib.npz", fix=fix)
    assert report.layers
    assert not report.unmapped
