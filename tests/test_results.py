"""What is saved can be loaded and says what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant import results
from calibrant.errors import OutputError
from calibrant.recipe import Recipe
from calibrant.save.tables import plan_table
from tests.models import NETS, build, convolution, normal, with_external_data
from tests.road import TARGETS, batches, outputs, quantize, quantized

FILES = [
    "deploy.onnx",
    "fake_quant.onnx",
    "plan.json",
    "record.json",
    "record.txt",
    "summary.json",
]


def test_every_file_is_written_and_the_models_run(tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    result = quantized("residual", "generic")
    written = result.save(tmp_path / "run")
    assert [p.name for p in written] == FILES
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == FILES
    for name, made in (("deploy", result.deploy), ("fake_quant", result.fake_quant)):
        path = tmp_path / "run" / f"{name}.onnx"
        onnx.checker.check_model(onnx.load(path), full_check=True)
        for a, b in zip(outputs(path, feeds()), outputs(made, feeds()), strict=True):
            np.testing.assert_array_equal(a, b)
    assert outputs(model, feeds())[0].shape == (4, 8, 16, 16)


def test_json_files_are_plain(tmp_path: Path) -> None:
    quantized("pools", "layers-only").save(tmp_path)
    for name in ("plan", "record", "summary"):
        assert json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("external", [True, False])
def test_large_models_have_their_weights_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    model, feeds = convolution.residual()
    source = with_external_data(model, tmp_path) if external else model
    result = quantize(source, batches(feeds))
    small = [
        v.const_value.nbytes for v in result.deploy.graph.initializers.values() if v.const_value
    ]
    monkeypatch.setattr(results, "EXTERNAL_BYTES", 100)
    out = tmp_path / "run"
    result.save(out)
    beside = {"deploy.onnx.data", "fake_quant.onnx.data"}
    assert beside <= {p.name for p in out.iterdir()}
    assert sum(small) > (out / "deploy.onnx").stat().st_size - 20_000
    for name, made in (("deploy", result.deploy), ("fake_quant", result.fake_quant)):
        np.testing.assert_array_equal(
            outputs(out / f"{name}.onnx", feeds())[0], outputs(made, feeds())[0]
        )
    monkeypatch.setattr(results, "EXTERNAL_BYTES", 10**9)
    result.save(out)
    assert not beside & {p.name for p in out.iterdir()}
    np.testing.assert_array_equal(
        outputs(out / "deploy.onnx", feeds())[0], outputs(result.deploy, feeds())[0]
    )


def test_a_folder_holds_one_run_and_the_files_of_others(tmp_path: Path) -> None:
    result = quantized("residual", "generic")
    for name in ("notes.txt", "ptq_model.onnx.bak", "deploy_model.onnx"):
        (tmp_path / name).write_text("of somebody else")
    stages = {p.name for p in result.save(tmp_path, formats=["horizon"], prefix="net")}
    assert "net_ptq_model.onnx" in stages
    result.save(tmp_path)
    there = {p.name for p in tmp_path.iterdir()}
    assert there == {*FILES, "notes.txt", "ptq_model.onnx.bak", "deploy_model.onnx"}
    assert (tmp_path / "notes.txt").read_text() == "of somebody else"


@pytest.mark.parametrize(
    "summary",
    [
        '{"files": ["notes.txt"]}',
        '{"calibrant": "0", "files": ["../notes.txt", "/etc/hostname", "folder", "", 3]}',
        '{"calibrant": "0", "files": "notes.txt"}',
        '["calibrant"]',
        "no JSON",
        "[" * 100_000,
    ],
)
def test_a_summary_that_is_not_ours_takes_nothing_out(tmp_path: Path, summary: str) -> None:
    run = tmp_path / "run"
    (run / "folder").mkdir(parents=True)
    for path in (tmp_path / "notes.txt", run / "notes.txt"):
        path.write_text("mine")
    (run / "summary.json").write_text(summary)
    quantized("residual", "generic").save(run)
    assert (tmp_path / "notes.txt").exists()
    assert {p.name for p in run.iterdir()} == {*FILES, "notes.txt", "folder"}


@pytest.mark.parametrize("failing", ["deploy.onnx", "fake_quant.onnx"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    result = quantized("residual", "generic")
    quantized("pools", "generic").save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    save = ir.save

    def full(model: ir.Model, path: Path, external_data: str | None) -> None:
        save(model, path, external_data=external_data)
        if Path(path).name == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        result.save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("target", TARGETS)
def test_the_plan_has_every_tensor_with_the_rule_that_decided(target: str) -> None:
    result = quantized("residual", target)
    table = plan_table(result.plan, result.params)
    assert table["target"] == target
    weights = [t for t in table["tensors"] if t["role"] == "weight"]
    assert [t["readers"] for t in weights] == [[f"conv{i}:1"] for i in range(5)]
    assert all(len(t["scale"]) == 8 and t["axis"] == 0 and t["type"] == "int8" for t in weights)
    activations = [t for t in table["tensors"] if t["role"] == "activation"]
    assert {t["type"] for t in activations} == {"uint8" if target == "onnxruntime" else "int8"}
    assert all(t["range"][0] <= 0 <= t["range"][1] for t in activations)
    assert [d["layer"] for d in table["layers"] if d["quantized"]] == [
        f"conv{i}" for i in range(5)
    ]


@pytest.mark.parametrize(("size", "many"), [(None, 2), (16, 3), (3, 14)])
def test_the_summary_counts_batches_of_the_data_not_feeds_of_the_probe(
    size: int | None, many: int
) -> None:
    model, feeds = NETS["conv_bn_relu"]()
    summary = quantize(model, dict(feeds(batch=40)), batch_size=size).summary
    assert (summary["data"]["samples"], summary["data"]["batches"]) == (40, many)


def test_the_summary_says_what_was_done() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    summary = quantize(model, batches(feeds)).summary
    assert summary["data"]["samples"] == 32
    assert summary["data"]["batches"] == 4
    assert summary["layers"]["quantized"] == 4
    assert summary["layers"]["float"] == []
    assert [f["layer"] for f in summary["passes"]["folded"]] == ["conv1", "conv2", "conv3"]
    assert summary["quality"]["outputs"]["y"]["sqnr_db"] > 30
    assert summary["size"]["ratio"] < 0.6
    assert [w for w in summary["warnings"] if "saturate" not in w] == []  # that is this CPU's
    stages = sum(v for k, v in summary["time_s"].items() if k != "total")
    assert stages <= summary["time_s"]["total"] * 1.05


def test_layers_in_float_have_a_reason() -> None:
    summary = quantized("conv_transpose", "onnxruntime").summary
    assert [(d["layer"], d["reason"]) for d in summary["layers"]["float"]] == [
        (n, "target 'onnxruntime' has no integer kernel for ConvTranspose") for n in ("up1", "y")
    ]


def test_an_output_on_256_levels_has_not_collapsed() -> None:
    warnings = quantized("residual", "onnxruntime").summary["warnings"]
    assert not any("collapsed" in w for w in warnings)


def test_a_part_that_an_integer_output_loses_is_warned_of() -> None:
    graph = """g (float[N, 3, 8, 8] x) => (float[N, 10, 64] y)
    {
      a = Conv(x, wa)  s = Sigmoid(a)  boxes = Mul(s, pixels)
      b = Conv(x, wb)  scores = Sigmoid(b)
      joined = Concat<axis = 1>(boxes, scores)
      y = Reshape(joined, rows)
    }"""
    rng = np.random.default_rng(0)
    weights = {
        "wa": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "wb": rng.normal(size=(6, 3, 1, 1)).astype(np.float32),
        "pixels": np.float32(640),
        "rows": np.array([0, 10, -1]),
    }
    model, feeds = build(graph, weights, normal(3, 8, 8))
    summary = quantize(model, batches(feeds)).summary
    parts = summary["quality"]["outputs"]["y"]["parts"]
    assert [p["name"] for p in parts] == ["y[:, 0:4]", "y[:, 4:10]"]
    assert all(p["sqnr_db"] > 25 and not p["collapsed"] for p in parts)
    assert not summary["warnings"]
    lost = quantize(model, batches(feeds), Recipe(output_precision="int8")).summary
    boxes, scores = lost["quality"]["outputs"]["y"]["parts"]
    assert lost["quality"]["outputs"]["y"]["sqnr_db"] > 30
    assert not boxes["collapsed"]
    assert scores["sqnr_db"] < 5
    assert any("Output 'y' has collapsed in part 'y[:, 4:10]'" in w for w in lost["warnings"])
