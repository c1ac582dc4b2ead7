"""Runs from AMCT configurations that ask for balancing (DMQ) and for few levels (NUQ)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from calibrant.cli import main
from tests.cli._rounded import with_rounded_weights
from tests.models import NETS

EPS = 2.0**-23


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of its own, and leave no log that writes to a closed stream behind."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    log = logging.getLogger("calibrant")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


def run(*args: str | Path) -> int:
    return main([str(a) for a in args])


def quantize(net: str, recipe: str, out: str, *options: str, size: int = 32) -> dict[str, Any]:
    """Quantize a network with 80 samples; return its summary."""
    model, feeds = NETS[net]()
    onnx.save(model, "net.onnx")
    np.savez("net.npz", **feeds(batch=80, seed=3))  # type: ignore[arg-type]
    args = ("--data", "net.npz", "--recipe", recipe, "--batch-size", str(size), *options)
    assert run("quantize", "net.onnx", *args, "--out", out) == 0
    found: dict[str, Any] = json.loads(Path(out, "summary.json").read_text())
    return found


def records(out: str) -> dict[str, dict[str, list[float]]]:
    """Read record.txt by regular expressions, with no code of the package."""
    found = {}
    for block in re.findall(r"record \{.*?\n\}", Path(out, "record.txt").read_text(), re.DOTALL):
        key = re.search(r'key: "([^"]+)"', block)
        assert key is not None
        found[key[1]] = {
            field: [float(v) for v in re.findall(rf"{field}: (\S+)", block)]
            for field in ("scale_d", "scale_w", "tensor_balance_factor", "cluster")
        }
    return found


def seen_and_weights(net: str, samples: int) -> dict[str, tuple[Any, Any, Any]]:
    """Return of each layer the node, its float input for the first samples, and its weight."""
    model, feeds = NETS[net]()
    feed = {k: v[:samples] for k, v in feeds(batch=80, seed=3).items()}
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = [
        n
        for n in model.graph.node
        if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and n.input[1] in weights
    ]
    known = {i.name for i in model.graph.input} | {o.name for o in model.graph.output}
    tensors = dict.fromkeys(n.input[0] for n in layers)
    model.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    wanted = [t for t in tensors if t not in feed]
    values = feed | dict(zip(wanted, session.run(wanted, feed), strict=True))
    return {n.name: (n, values[n.input[0]], weights[n.input[1]]) for n in layers}


def divided_inputs(net: str, samples: int) -> dict[str, Any]:
    """Return of each layer the input it has behind rounded weights and its Mul, for the first samples."""
    model, feeds = NETS[net]()
    feed = {k: v[:samples] for k, v in feeds(batch=80, seed=3).items()}
    names = {n.name for n in model.graph.node}
    rounded = with_rounded_weights(Path("run"))
    layers = [n for n in rounded.graph.node if n.name in names and len(n.input) > 1]
    known = {i.name for i in rounded.graph.input} | {o.name for o in rounded.graph.output}
    known |= {i.name for i in rounded.graph.initializer}
    tensors = [t for t in dict.fromkeys(n.input[0] for n in layers) if t not in known]
    rounded.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(rounded.SerializeToString(), options, ["CPUExecutionProvider"])
    values = feed | dict(zip(tensors, session.run(tensors, feed), strict=True))
    return {n.name: values[n.input[0]] for n in layers if n.input[0] in values}


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def input_rows(node: onnx.NodeProto, w: Any) -> Any:
    """Bring a weight into (input channels, rest), group by group."""
    if node.op_type == "Conv":
        g = attribute(node, "group", 1)
        parts = np.split(w, g, axis=0)
        return np.concatenate([np.moveaxis(p, 1, 0).reshape(w.shape[1], -1) for p in parts])
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        w = w.T
    return w.reshape(w.shape[0], -1)


def factors(node: onnx.NodeProto, x: Any, w: Any, strength: float) -> Any:
    axis = 1 if node.op_type in ("Conv", "ConvTranspose") else x.ndim - 1
    top = np.abs(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)).max(axis=1).astype(float)
    heavy = np.abs(input_rows(node, w)).max(axis=1).astype(float)
    assert (heavy >= EPS).all()
    alive = top >= EPS
    f = np.where(alive, top, 1) ** strength / heavy ** (1 - strength)
    f[~alive] = (heavy * f)[alive].max() / heavy[~alive]
    return f


CFG = """batch_num: 2
activation_offset: false
do_fusion: false
common_config {{
  dmq_balancer {{ migration_strength: {strength} }}
  ifmr_quantize {{ search_range_start: 0.99999 search_range_end: 1.00001 search_step: 0.00002
                   max_percentile: 1.0 min_percentile: 1.0 }}
}}
"""


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    "net", ["grouped", "conv_transpose", "gemm_mlp", "matmul_mlp", "residual"]
)
def test_balanced_layers_have_the_factors_and_scales_of_the_vendors_formula(
    net: str, strength: float
) -> None:
    """Factors come from the first batch, 32 samples; ranges from both, 64, of the divided input."""
    Path("quant.cfg").write_text(CFG.format(strength=strength))
    summary = quantize(net, "quant.cfg", "run", "--exact")
    found, first = records("run"), seen_and_weights(net, 32)
    both = divided_inputs(net, 64)
    balanced = {n for b in summary["passes"]["balanced"] for n in b["layers"]}
    assert balanced == set(first)
    for layer, (node, x, w) in first.items():
        f = factors(node, x, w, strength)
        assert found[layer]["tensor_balance_factor"] == pytest.approx(f.tolist(), rel=1e-5), layer
        divided = both[layer]
        levels = 128 if -divided.min() > divided.max() else 127
        scale = np.abs(divided).max() / levels
        assert found[layer]["scale_d"] == pytest.approx([scale], rel=1e-4), layer
        rows = input_rows(node, w) * f[:, None]
        if len(found[layer]["scale_w"]) == 1:
            top, low = rows.max(), rows.min()
            wanted = max(top, -low) / (128 if -low > top else 127)
            assert found[layer]["scale_w"] == pytest.approx([wanted], rel=1e-5), layer


def test_balancing_is_taken_from_the_first_batch_alone() -> None:
    texts = []
    for batches in (1, 2):
        Path("quant.cfg").write_text(CFG.format(strength=0.5).replace(": 2", f": {batches}", 1))
        quantize("residual", "quant.cfg", f"run{batches}")
        found = records(f"run{batches}")
        texts.append({n: e["tensor_balance_factor"] for n, e in found.items()})
    assert texts[0] == texts[1]
    quantize("residual", "quant.cfg", "larger", size=40)
    assert {n: e["tensor_balance_factor"] for n, e in records("larger").items()} != texts[0]


def test_config_json_and_the_simplified_form_balance_alike_and_unlike_without() -> None:
    Path("quant.cfg").write_text(CFG.format(strength=0.5))
    onnx.save(NETS["gemm_mlp"]()[0], "net.onnx")
    args = ("--dialect", "amct", "--from", "quant.cfg", "-o", "config.json")
    assert run("init", "net.onnx", *args) == 0
    config = json.loads(Path("config.json").read_text())
    layers = {k: v for k, v in config.items() if isinstance(v, dict)}
    assert all(v["dmq_balancer_param"] == 0.5 for v in layers.values())
    for value in layers.values():
        del value["dmq_balancer_param"]
    Path("plain.json").write_text(json.dumps(config))
    quality = {}
    for name in ("quant.cfg", "config.json", "plain.json"):
        summary = quantize("gemm_mlp", name, name.replace(".", "_"))
        quality[name] = summary["quality"]["outputs"]
    same, long, plain = (
        Path(d, "record.txt").read_text() for d in ("quant_cfg", "config_json", "plain_json")
    )
    assert same == long
    assert "tensor_balance_factor" in long
    assert "tensor_balance_factor" not in plain
    assert quality["quant.cfg"] == quality["config.json"] != quality["plain.json"]


def test_pooling_is_not_balanced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("quant.cfg").write_text(CFG.format(strength=0.5))
    summary = quantize("pools", "quant.cfg", "run")
    assert any("avg1" in n["message"] for n in summary["notes"])
    assert records("run")["avg1"]["tensor_balance_factor"] == []
    Path("quant.cfg").write_text(
        'override_layer_configs { layer_name: "avg1" calibration_config { dmq_balancer { } } }'
    )
    args = ("--data", "net.npz", "--recipe", "quant.cfg", "--out", "own")
    assert run("quantize", "net.onnx", *args) != 0
    assert "avg1" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- few levels


def test_a_mapping_file_gives_its_layers_few_levels() -> None:
    Path("map.json").write_text(json.dumps({"graph": {"op": [{"name": "conv1"}, {"name": "x9"}]}}))
    steps = {}
    for count in (16, 32):
        Path("quant.cfg").write_text(
            'nuq_config { mapping_file: "map.json" '
            f"nuq_quantize {{ num_steps: {count} num_of_iteration: 0 }} }}\n"
            "common_config { arq_quantize { channel_wise: true } }\n"
        )
        summary = quantize("residual", "quant.cfg", f"run{count}")
        found = records(f"run{count}")
        assert {n for n, e in found.items() if e["cluster"]} == {"conv1"}
        steps[count] = found["conv1"]["cluster"]
        assert steps[count] == sorted(set(steps[count]))
        assert all(-128 <= c <= 127 and c == int(c) for c in steps[count])
        assert len(steps[count]) == count
        assert [e["layer"] for e in summary["size"]["few_levels"]["layers"]] == ["conv1"]
        stored = {
            t.name: numpy_helper.to_array(t)
            for t in onnx.load(f"run{count}/deploy.onnx").graph.initializer
        }
        assert set(np.unique(stored["conv1__weight_quantized"])) <= set(steps[count])
        assert np.unique(stored["conv2__weight_quantized"]).size > 32
    assert steps[16] != steps[32]


def test_rounds_of_a_configuration_are_done() -> None:
    clusters = {}
    for rounds in (0, 1, 5):
        Path("quant.cfg").write_text(
            f"batch_num: 2 common_config {{ nuq_quantize {{ num_steps: 16 num_of_iteration: {rounds} }} }}"
        )
        summary = quantize("residual", "quant.cfg", f"run{rounds}")
        assert summary["quality"]["samples"] == (64 if rounds else 16)  # both batches
        tried = {e["round"] for e in summary["passes"]["levels_refined"]}
        assert tried <= set(range(1, rounds + 1))
        assert bool(tried) == bool(rounds)
        clusters[rounds] = {n: e["cluster"] for n, e in records(f"run{rounds}").items()}
    assert clusters[0] != clusters[1]
    assert clusters[1] != clusters[5]


def test_config_json_asks_for_few_levels_of_one_layer() -> None:
    layer = {
        "quant_enable": True,
        "weight_quant_params": {"wts_algo": "nuq_quantize", "num_steps": 16},
    }
    config = {"version": 1, "conv1": layer, "conv2": {"quant_enable": True}}
    Path("config.json").write_text(json.dumps(config))
    quantize("residual", "config.json", "run")
    found = records("run")
    assert len(found["conv1"]["cluster"]) == 16
    assert found["conv2"]["cluster"] == []


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            'override_layer_configs {{ layer_name: "{name}" calibration_config '
            "{{ nuq_quantize {{ num_steps: 16 }} }} }}",
            "quant.cfg:1.*weight is nuq.*groups in layer {name}",
        ),
        (
            'nuq_config {{ mapping_file: "map.json" }}\n'
            'override_layer_configs {{ layer_name: "{name}" calibration_config '
            "{{ nuq_quantize {{ num_steps: 16 }} }} }}",
            "quant.cfg:2.*groups in layer {name}",
        ),
    ],
)
def test_a_layer_with_groups_cannot_be_asked_for_few_levels(
    cfg: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, feeds = NETS["grouped"]()
    grouped = next(n.name for n in model.graph.node if attribute(n, "group", 1) > 1)
    plain = next(
        n.name for n in model.graph.node if n.op_type == "Conv" and attribute(n, "group", 1) == 1
    )
    Path("map.json").write_text(json.dumps({"layers": [plain]}))
    Path("quant.cfg").write_text(cfg.format(name=grouped))
    onnx.save(model, "net.onnx")
    np.savez("net.npz", **feeds(batch=8, seed=3))  # type: ignore[arg-type]
    assert (
        run("quantize", "net.onnx", "--data", "net.npz", "--recipe", "quant.cfg", "--out", "o")
        != 0
    )
    assert re.search(message.format(name=grouped), " ".join(capsys.readouterr().err.split()))


def test_few_levels_by_the_command_line_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    model, feeds = NETS["residual"]()
    onnx.save(model, "net.onnx")
    np.savez("net.npz", **feeds(batch=32, seed=3))  # type: ignore[arg-type]
    args = ("net.onnx", "--data", "net.npz", "--weight", "nuq", "--out", "run", "-v")
    assert run("quantize", *args) == 0
    said = capsys.readouterr().out
    assert "5 keep few levels" in said
    assert "Weights of few levels" in said
    rows = json.loads(Path("run/summary.json").read_text())["size"]["few_levels"]["layers"]
    for row in rows:
        assert row["levels"] == 32
        assert re.search(
            rf"{row['layer']} +32 +{row['int8_bytes']} +{row['packed_bytes']} +int8", said
        )
