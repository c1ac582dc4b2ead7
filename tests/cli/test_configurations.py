"""Configurations from the command line: explain, convert-config, init for a vendor, and runs from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tests.models import NETS

from calibrant.cli import main
from calibrant.dialects import load_recipe

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
HORIZON = """{
  "model_config": {"all_node_type": "int8", "activation": {"calibration_type": "max", "per_channel": true}},
  "op_config": {"Gemm": {"qtype": "int16"}},
  "node_config": {"conv2": {"qtype": "float32"}, "conv3": {"input0": "int16"}}
}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: pools.onnx (three Conv, AveragePool, Gemm), quant.cfg and quant_config.json."""
    onnx.save(NETS["pools"]()[0], tmp_path / "pools.onnx")
    (tmp_path / "quant.cfg").write_text(CFG)
    (tmp_path / "quant_config.json").write_text(HORIZON)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str | Path) -> int:
    return main([str(a) for a in args])


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------------------------------- explain


def explained(
    capsys: pytest.CaptureFixture[str], recipe: str | Path
) -> tuple[Any, dict[str, Any]]:
    assert run("explain", "pools.onnx", "--recipe", recipe, "--json") == 0
    content = printed_json(capsys)
    return content, {layer["layer"]: layer for layer in content["layers"]}


def test_explain_names_value_level_and_rule(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, layers = explained(capsys, "quant.cfg")
    assert content["whole_model"]["target"] == "layers-only"
    assert content["whole_model"]["calibration"]["batch_num"] == 2
    conv = layers["conv1"]["settings"]
    assert conv["weight_bits"] == {
        "value": 7,
        "level": "model",
        "rule": "quant.cfg:4 common_config",
    }
    assert conv["activation_symmetric"]["rule"] == "quant.cfg:2 activation_offset"
    assert conv["activation_symmetric"]["level"] == "model"
    assert conv["compute"] == {"value": "int", "level": "default", "rule": "quant.cfg: default"}
    assert conv["activation_per_channel"]["level"] == "default"
    gemm = layers["y"]["settings"]["activation"]
    assert gemm == {
        "value": "hfmg(bins=2048)",
        "level": "type",
        "rule": "quant.cfg:8 override_layer_types 'Gemm'",
    }
    assert layers["conv2"]["quantized"] is False
    assert layers["conv2"]["settings"]["compute"]["level"] == "layer"
    assert layers["conv2"]["reason"].endswith("quant.cfg:3 skip_layers 'conv2'")


def test_explain_lists_what_is_not_done_and_what_is_not_implemented(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, _ = explained(capsys, "quant.cfg")
    assert any("6 and 7 bits are for Conv2d alone: 8" in n["message"] for n in content["notes"])
    assert content["not_implemented"] == []
    (files / "training.cfg").write_text(
        "batch_num: 1\nretrain_data_quant_config { ulq_quantize { } }\n"
    )
    content, _ = explained(capsys, "training.cfg")
    assert any("training" in text for text in content["not_implemented"])


def test_explain_says_what_holds_for_one_input(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, layers = explained(capsys, "quant_config.json")
    [entry] = [e for e in layers["conv3"]["inputs"] if e["input"] == 0]
    bits = entry["settings"]["activation_bits"]
    assert (bits["value"], bits["level"]) == (16, "input")
    assert bits["rule"].endswith(":4 node_config.conv3.input0")
    assert layers["conv3"]["settings"]["activation_bits"]["value"] == 8
    assert layers["conv1"]["inputs"] == []


def test_explain_in_words(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "pools.onnx", "--recipe", "quant.cfg") == 0
    out = capsys.readouterr().out
    assert "quant.cfg for pools.onnx, target layers-only" in out
    assert "5 layers: 4 quantized, 1 left in float" in out
    assert re.search(r"weight bits +7 +model +quant\.cfg:4 common_config", out)
    assert "conv2 (Conv), stays in float: float32 asked for by" in out
    assert "Not done as asked\n  quant.cfg:4 common_config: " in out
    assert max(map(len, out.splitlines())) < 200
    assert run("explain", "pools.onnx", "--recipe", "quant_config.json") == 0
    out = capsys.readouterr().out
    assert re.search(r"input 0 '\w+'\n +activation bits +16 +input ", out)
    assert "Not implemented yet, so 'calibrant quantize' refuses it\n  activations with one" in out


def test_explain_sees_the_model_as_the_pipeline_does(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folded batch normalization is no layer, and unnamed nodes have the names of the plan."""
    onnx.save(NETS["unnamed_nodes"]()[0], "net.onnx")
    x = NETS["unnamed_nodes"]()[1](batch=4, seed=0)
    np.savez("net.npz", **x)
    Path("recipe.yaml").write_text("calibrant: 1\nrules: []\n")
    assert run("explain", "net.onnx", "--recipe", "recipe.yaml", "--json") == 0
    names = [layer["layer"] for layer in printed_json(capsys)["layers"]]
    assert run("quantize", "net.onnx", "--data", "net.npz", "--out", "run") == 0
    plan = json.loads(Path("run/plan.json").read_text())
    assert names == [layer["layer"] for layer in plan["layers"]]
    assert all(names)


# ------------------------------------------------------------------------------------ convert-config


@pytest.mark.parametrize("source", sorted(p.name for p in GOLDEN.glob("*.*") if p.suffix != ".md"))
def test_every_sample_becomes_a_native_recipe(
    source: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert-config", GOLDEN / source, "--to", "native", "-o", "recipe.yaml") == 0
    assert capsys.readouterr().out == f"recipe.yaml: {source} in dialect native.\n"
    before, after = load_recipe(GOLDEN / source), load_recipe(files / "recipe.yaml")
    assert [(r.where, r.settings, r.force) for r in after.rules] == [
        (r.where, r.settings, r.force) for r in before.rules
    ]


def test_convert_config_for_a_model_lists_its_layers(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("convert-config", "quant.cfg", "--to", "amct")
    assert run(*base) == 6
    assert "needs the model" in capsys.readouterr().err
    assert run(*base, "--model", "pools.onnx", "-o", "-") == 0
    content = printed_json(capsys)
    assert content["conv1"]["weight_quant_params"]["num_bits"] == 7
    assert content["conv2"]["quant_enable"] is False
    assert not (files / "-").exists()


def test_convert_config_says_on_stderr_what_is_not_honoured(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next(
        p for p in sorted(GOLDEN.glob("*.*")) if p.suffix != ".md" and load_recipe(p).notes
    )
    assert run("convert-config", source, "--to", "native") == 0
    printed = capsys.readouterr()
    notes = load_recipe(source).notes
    assert [f"Note: {n.where}: {n.message}" for n in notes] == printed.err.splitlines()
    assert printed.out.startswith("calibrant: 1\n")
    assert run("convert-config", source, "--to", "native", "--json") == 0
    content = printed_json(capsys)
    assert content["config"] == printed.out
    assert [n["message"] for n in content["notes"]] == [n.message for n in notes]


def test_existing_files_are_replaced_only_when_asked(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "there").write_text("mine")
    for args in (
        ("convert-config", "quant.cfg", "--to", "native", "-o", "there"),
        ("init", "pools.onnx", "--dialect", "amct", "-o", "there"),
    ):
        (files / "there").write_text("mine")
        assert run(*args) == 7
        assert "'there' exists; give another file, or --force" in capsys.readouterr().err
        assert (files / "there").read_text() == "mine"
        assert run(*args, "--force") == 0
        assert load_recipe(files / "there").rules
    assert [p.name for p in files.iterdir() if p.name.endswith(".part")] == []


# ---------------------------------------------------------------------------------- init for a vendor


@pytest.mark.parametrize("net", ["pools", "conv_bn_relu", "residual", "grouped", "matmul_mlp"])
@pytest.mark.parametrize("dialect", ["amct", "amct-retrain", "horizon"])
def test_init_writes_a_file_of_the_vendor_that_is_read_back(
    dialect: str, net: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(NETS[net]()[0], "net.onnx")
    args = ("init", "net.onnx", "--dialect", dialect, "-o", "config.json")
    assert run(*args, "--json") == 0
    said = printed_json(capsys)
    text = (files / "config.json").read_text()
    assert said["recipe"] == text
    assert said["dialect"] == dialect
    content = json.loads(text)
    listed = content["node_config"] if dialect == "horizon" else content
    layers = {d["layer"]: d["quantized"] for d in said["layers"]}
    assert layers
    assert set(layers) <= set(listed)
    assert run("explain", "net.onnx", "--recipe", "config.json", "--json") == 0
    again = {d["layer"]: d["quantized"] for d in printed_json(capsys)["layers"]}
    assert {name: quantized for name, quantized in again.items() if name in listed} == layers


def test_init_from_a_simplified_configuration(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("init", "pools.onnx", "--dialect", "amct")
    assert run(*base) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["conv1"]["weight_quant_params"]["num_bits"] == 8
    assert plain["batch_num"] == 1
    assert run(*base, "--from", "quant.cfg") == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["conv1"]["weight_quant_params"]["num_bits"] == 7
    assert content["conv2"]["quant_enable"] is False
    assert content["y"]["activation_quant_params"]["act_algo"] == "hfmg"
    assert content["batch_num"] == 2
    assert "Note: quant.cfg:4 common_config: weight bits is 7 for a AveragePool" in printed.err


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["explain", "pools.onnx"], 2, "--recipe"),
        (["explain", "gone.onnx", "--recipe", "quant.cfg"], 3, "does not exist"),
        (["explain", "pools.onnx", "--recipe", "quant.cgf"], 5, "Did you mean 'quant.cfg'"),
        (["explain", "pools.onnx", "--recipe", "layer.cfg"], 5, "Did you mean 'conv2'"),
        (["convert-config", "quant.cfg"], 2, "--to"),
        (["convert-config", "gone.cfg", "--to", "native"], 5, "cannot be read"),
        (["convert-config", "quant.cfg", "--to", "amtc"], 5, "Did you mean 'amct'"),
        (["convert-config", "quant.cfg", "--to", "ascend"], 6, "is read, not written"),
        (["convert-config", "quant.cfg", "--to", "native", "-o", "gone/x"], 7, "cannot be written"),
        (["convert-config", "quant.cfg", "--to", "native", "-o", "."], 7, "is a folder"),
        (["convert-config", "quant.cfg", "--to", "amct", "--model", "gone.onnx"], 3, "does not exist"),
        (["init", "pools.onnx", "--dialect", "amtc"], 5, "--dialect is 'amtc'"),
        (["init", "pools.onnx", "--dialect", "amct", "--target", "generic"], 5, "--target is for a native"),
        (["init", "pools.onnx", "--from", "quant.cfg"], 5, "--from is for a vendor's dialect"),
        (["init", "pools.onnx", "--dialect", "amct", "--from", "gone.cfg"], 5, "cannot be read"),
        (["init", "pools.onnx", "--dialect", "amct", "--from", "layer.cfg"], 5, "Did you mean 'conv2'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_a_code(
    files: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, text: str
) -> None:
    (files / "layer.cfg").write_text('skip_layers: "conv_2"\n')
    before = {p: p.read_bytes() for p in files.iterdir()}
    assert run(*args) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("calibrant: error: ")
    assert printed.err.count("\n") == 1
    assert text in printed.err
    assert printed.out == ""
    assert {p: p.read_bytes() for p in files.iterdir()} == before


# ---------------------------------------------------------------------------------------------- runs


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
    """Return the first input of each layer, as ONNX Runtime computes it in the float model."""
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
    x: np.ndarray, *, start: float, end: float, step: float, symmetric: bool
) -> tuple[float, int]:
    """Scale and offset of 8 bits by ascend.md 3.2 to 3.4, written down a second time."""
    f32 = np.float32
    x = x.ravel().astype(f32)
    top, bottom = np.sort(x)[::-1], np.sort(x)
    k = x.size - int(0.999999 * x.size)
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


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("net", ["pools", "residual", "gemm_mlp", "matmul_mlp"])
def test_an_amct_run_on_raw_values_has_the_factors_of_the_vendors_search(
    net: str, symmetric: bool, files: Path
) -> None:
    model, feeds = NETS[net]()
    data = feeds(batch=24, seed=3)
    onnx.save(model, "net.onnx")
    np.savez("net.npz", **data)
    (files / "ifmr.cfg").write_text(
        f"batch_num: 2\nactivation_offset: {str(not symmetric).lower()}\n"
        "common_config { ifmr_quantize { search_range_start: 0.6 search_range_end: 1.2 search_step: 0.02 } }\n"
    )
    args = ("--data", "net.npz", "--recipe", "ifmr.cfg", "--exact", "--batch-size", "8")
    assert run("quantize", "net.onnx", *args, "--out", "run") == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["target"] == "layers-only"
    assert summary["data"]["samples"] == 16
    assert summary["passes"]["bias_corrected"] == []
    assert summary["passes"]["equalized"] == []
    seen = layer_inputs(model, {k: v[:16] for k, v in data.items()})
    found = records(Path("run/record.txt"))
    assert set(found) == set(seen)
    for layer, x in seen.items():
        scale, offset = ifmr(x, start=0.6, end=1.2, step=0.02, symmetric=symmetric)
        assert found[layer]["scale_d"] == pytest.approx(scale, rel=1e-6), layer
        assert found[layer]["offset_d"] == offset, layer


def test_a_written_out_configuration_gives_the_run_of_the_simplified_one(files: Path) -> None:
    np.savez("pools.npz", **NETS["pools"]()[1](batch=16, seed=1))
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
    np.savez("pools.npz", **NETS["pools"]()[1](batch=16, seed=1))
    (files / "calibration.cfg").write_text(
        "device: USE_CPU\nquantize_algo: HALF_OFFSET\nweight_type: VECTOR_TYPE\nbin: 150\ntype: KL\nbatch_count: 1\n"
        'exclude_op: "conv1"\n'
    )
    args = ("--data", "pools.npz", "--recipe", "calibration.cfg", "--batch-size", "8")
    assert run("quantize", "pools.onnx", *args, "--out", "run") == 0
    plan = json.loads(Path("run/plan.json").read_text())
    assert {d["layer"] for d in plan["layers"] if not d["quantized"]} >= {"conv1"}
    algorithms = {t["algorithm"] for t in plan["tensors"] if t["role"] == "activation"}
    assert all(a.startswith("kl(") and "bins=150" in a for a in algorithms)
    assert json.loads(Path("run/summary.json").read_text())["data"]["samples"] == 8
