"""Runs from a vendor's configuration: what its file asks for is what comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from calibrant.cli import main
from tests.cli._rounded import with_rounded_weights
from tests.models import NETS

GOLDEN = Path(__file__).parents[1] / "golden" / "dialects"

CFG = """batch_num: 2
activation_offset: true
skip_layers: "conv2"
common_config {
  arq_quantize { channel_wise: true quant_bits: 7 }
  ifmr_quantize { search_step: 0.02 }
}
override_layer_types {
  layer_type: "Gemm"
  calibration_config { hfmg_quantize { num_of_bins: 2048 } }
}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pools.onnx (three Conv, AveragePool, Gemm) and quant.cfg."""
    onnx.save(NETS["pools"]()[0], tmp_path / "pools.onnx")
    (tmp_path / "quant.cfg").write_text(CFG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str | Path) -> int:
    return main([str(a) for a in args])


def records(path: Path) -> dict[str, dict[str, float]]:
    """Read the activation side of record.txt by regular expressions, with no code of the package."""
    found = {}
    for block in re.findall(r"record \{.*?\n\}", path.read_text(), re.DOTALL):
        key = re.search(r'key: "([^"]+)"', block)
        assert key is not None
        found[key[1]] = {
            name: float(value) for name, value in re.findall(r"(scale_d|offset_d): (\S+)", block)
        }
    return found


def layer_inputs(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the first input of each layer, as ONNX Runtime computes it."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    layers = [
        n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul", "AveragePool")
    ]
    tensors = dict.fromkeys(n.input[0] for n in layers)
    known = {i.name for i in model.graph.input} | {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    wanted = [t for t in tensors if t not in feeds]
    values = feeds | dict(zip(wanted, session.run(wanted, feeds), strict=True))
    return {n.name: values[n.input[0]] for n in layers}


def ifmr(
    x: np.ndarray, start: float, end: float, step: float, percentile: float, *, symmetric: bool
) -> tuple[float, int]:
    """Scale and offset of 8 bits by docs/explanation/algorithms/ifmr.md, written down a second time."""
    f32 = np.float32
    x = x.ravel().astype(f32)
    top, bottom = np.sort(x)[::-1], np.sort(x)
    k = x.size - int(percentile * x.size)
    high, low = max(f32(0), top[k - 1]), min(f32(0), bottom[k - 1])
    best: tuple[float, np.float32] | None = None
    for i in range(int(np.ceil((end - start) / step))):
        r = f32(start + i * step)
        if symmetric:
            c = r * max(abs(high), abs(low))
            s = f32(c / f32(128 if abs(high) < abs(low) else 127))
            floor = -c
        else:
            c, floor = r * high, low
            s = f32((c - low) / f32(255))
        z = np.rint(np.clip(x, floor, c) / s) * s
        loss = float(np.mean(np.square((z - x).astype(np.float64))))
        if best is None or loss < best[0]:
            best = (loss, s)
    assert best is not None
    scale = best[1]
    return float(scale), 0 if symmetric else int(-np.rint(low / scale) - 128)


def vendor_run(net: str, cfg: str, *options: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Quantize a network in the working folder; return the factors and the inputs of its layers."""
    model, feeds = NETS[net]()
    data = feeds(batch=80, seed=3)
    onnx.save(model, "net.onnx")
    np.savez("net.npz", **data)  # type: ignore[arg-type]
    Path("ifmr.cfg").write_text(cfg)
    args = ("--data", "net.npz", "--recipe", "ifmr.cfg", "--batch-size", "32", *options)
    assert run("quantize", "net.onnx", *args, "--out", "run") == 0
    rounded = with_rounded_weights(Path("run"), Path("net.onnx"))  # what AMCT observes
    return records(Path("run/record.txt")), layer_inputs(
        rounded, {k: v[:64] for k, v in data.items()}
    )


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    ("start", "end", "step", "percentile"),
    [(0.7, 1.3, 0.01, 0.999999), (0.35, 0.62, 0.03, 0.999), (1.1, 1.4, 0.05, 0.99)],
    ids=["default", "clipped", "widened"],
)
@pytest.mark.parametrize("net", ["pools", "residual", "gemm_mlp", "matmul_mlp"])
def test_an_amct_run_on_raw_values_has_the_factors_of_the_vendors_search(
    net: str,
    start: float,
    end: float,
    step: float,
    percentile: float,
    symmetric: bool,
    files: Path,
) -> None:
    """Two batches of 32 samples are asked for, of 80 that are there."""
    cfg = (
        f"batch_num: 2\nactivation_offset: {str(not symmetric).lower()}\n"
        f"common_config {{ ifmr_quantize {{ search_range_start: {start} search_range_end: {end} "
        f"search_step: {step} max_percentile: {percentile} min_percentile: {percentile} }} }}\n"
    )
    found, seen = vendor_run(net, cfg, "--exact")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["target"] == "layers-only"
    assert summary["data"]["samples"] == 64
    assert summary["passes"]["bias_corrected"] == []
    assert summary["passes"]["equalized"] == []
    assert set(found) == set(seen)
    for layer, x in seen.items():
        scale, offset = ifmr(x, start, end, step, percentile, symmetric=symmetric)
        assert found[layer]["scale_d"] == pytest.approx(scale, rel=1e-6), layer
        assert found[layer]["offset_d"] == offset, layer


def test_without_raw_values_the_factors_are_close_and_not_equal(files: Path) -> None:
    cfg = "batch_num: 2\ncommon_config { ifmr_quantize { max_percentile: 0.999 min_percentile: 0.999 } }\n"
    found, seen = vendor_run("residual", cfg)
    wanted = {k: ifmr(x, 0.7, 1.3, 0.01, 0.999, symmetric=False)[0] for k, x in seen.items()}
    scales = {layer: factors["scale_d"] for layer, factors in found.items()}
    assert scales == pytest.approx(wanted, rel=0.02)
    assert scales != pytest.approx(wanted, rel=1e-6)


def test_a_written_out_configuration_gives_the_run_of_the_simplified_one(files: Path) -> None:
    np.savez("pools.npz", **NETS["pools"]()[1](batch=16, seed=1))  # type: ignore[arg-type]
    base = ("quantize", "pools.onnx", "--data", "pools.npz", "--batch-size", "8")
    assert (
        run("init", "pools.onnx", "--dialect", "amct", "--from", "quant.cfg", "-o", "c.json") == 0
    )
    assert run(*base, "--recipe", "quant.cfg", "--out", "short") == 0
    assert run(*base, "--recipe", "c.json", "--out", "long") == 0
    assert run(*base, "--out", "default") == 0
    short, long, default = (
        Path(d, "record.txt").read_text() for d in ("short", "long", "default")
    )
    assert short == long
    assert short != default


def test_a_run_from_a_file_of_the_older_converter(files: Path) -> None:
    np.savez("pools.npz", **NETS["pools"]()[1](batch=16, seed=1))  # type: ignore[arg-type]
    text = (GOLDEN / "ascend_half_offset.cfg").read_text()
    assert "batch_count: 10" in text
    (files / "calibration.cfg").write_text(text.replace("batch_count: 10", "batch_count: 1"))
    args = ("--data", "pools.npz", "--recipe", "calibration.cfg", "--batch-size", "8")
    assert run("quantize", "pools.onnx", *args, "--out", "run") == 0
    plan = json.loads(Path("run/plan.json").read_text())
    assert {d["layer"] for d in plan["layers"] if not d["quantized"]} >= {"conv1"}
    algorithms = {t["algorithm"] for t in plan["tensors"] if t["role"] == "activation"}
    assert all(a.startswith("kl(") and "bins=150" in a for a in algorithms)
    assert json.loads(Path("run/summary.json").read_text())["data"]["samples"] == 8


def test_a_horizon_run_with_activations_by_channel(files: Path) -> None:
    np.savez("pools.npz", **NETS["pools"]()[1](batch=16, seed=1))  # type: ignore[arg-type]
    tensors = {}
    for flag in ("true", "false"):
        (files / "quant_config.json").write_text(
            '{"model_config": {"activation": {"calibration_type": "max", "per_channel": '
            + flag
            + '}}, "node_config": {"conv2": {"activation": {"per_channel": false}}}}'
        )
        args = ("--data", "pools.npz", "--recipe", "quant_config.json", "--out", flag)
        assert run("quantize", "pools.onnx", *args, "--target", "generic") == 0
        found = json.loads(Path(flag, "plan.json").read_text())["tensors"]
        tensors[flag] = {t["readers"][0]: t for t in found if t["role"] == "activation"}
    by_channel, whole = tensors["true"], tensors["false"]
    assert by_channel.keys() == whole.keys()
    for reader, entry in whole.items():
        other = by_channel[reader]
        if reader == "conv2:0":
            assert other["scale"] == entry["scale"]
            continue
        assert other["folded_into_weights"]
        assert len(other["scale"]) > 1
        assert max(other["scale"]) == pytest.approx(entry["scale"], rel=0.01)
        assert min(other["scale"]) < entry["scale"]
    record = Path("true", "record.txt").read_text()
    assert record.count("scale_d") > Path("false", "record.txt").read_text().count("scale_d")
