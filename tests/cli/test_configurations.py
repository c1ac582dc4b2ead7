"""Configurations on the command line: explain, convert-config, and init for a vendor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from calibrant.dialects import load_recipe
from calibrant.recipe.tidy import tidy
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
        "rule": "quant.cfg:5 common_config arq_quantize.quant_bits",
    }
    assert conv["activation_symmetric"]["rule"] == "quant.cfg:2 activation_offset"
    assert conv["activation_symmetric"]["level"] == "model"
    assert conv["compute"] == {"value": "int", "level": "default", "rule": "quant.cfg: default"}
    assert conv["activation_per_channel"]["level"] == "default"
    gemm = layers["y"]["settings"]["activation"]
    assert gemm == {
        "value": "hfmg(bins=2048)",
        "level": "type",
        "rule": "quant.cfg:10 override_layer_types 'Gemm' hfmg_quantize",
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


def test_explain_shows_what_a_rule_names_beside_the_layers_of_the_target(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(NETS["residual"]()[0], "residual.onnx")
    (files / "tensor.cfg").write_text(
        'common_config { }\ntensor_quantize { layer_name: "add1" input_index: 1 hfmg_quantize { } }\n'
    )
    assert run("explain", "residual.onnx", "--recipe", "tensor.cfg", "--json") == 0
    [add] = [d for d in printed_json(capsys)["layers"] if d["layer"] == "add1"]
    assert (
        add["reason"] == "target 'layers-only' quantizes no Add, but for inputs that a rule names"
    )
    [entry] = add["inputs"]
    assert entry["input"] == 1
    assert entry["settings"]["compute"] == {
        "value": "int",
        "level": "input",
        "rule": "tensor.cfg:2 tensor_quantize 'add1'",
    }
    assert entry["settings"]["activation"]["value"] == "hfmg(bins=4096)"
    assert run("explain", "residual.onnx", "--recipe", "tensor.cfg", "--all") == 0
    assert re.search(r"input 1 'conv2'\n +compute +int +input ", capsys.readouterr().out)


def test_an_input_that_is_quantized_on_request_shows_its_algorithm(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its node has the same settings, which are of no effect there, so nothing else would show them."""
    onnx.save(NETS["residual"]()[0], "residual.onnx")
    (files / "r.yaml").write_text(
        "calibrant: 1\nrules:\n  - {where: all, activation: kl}\n"
        "  - {where: {layer: add1}, precision: float32}\n"
        "  - {where: {layer: add1, input: 1}, precision: int8}\n"
    )
    assert run("explain", "residual.onnx", "--recipe", "r.yaml", "--json") == 0
    [add] = [d for d in printed_json(capsys)["layers"] if d["layer"] == "add1"]
    [entry] = add["inputs"]
    assert entry["settings"]["activation"]["value"] == "kl"
    assert entry["settings"]["activation_bits"]["value"] == 8
    assert run("explain", "residual.onnx", "--recipe", "r.yaml") == 0
    assert re.search(r"input 1 of add1: .*activation algorithm 'kl'", capsys.readouterr().out)


def test_explain_lists_each_candidate(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "search.json").write_text(
        '{"model_config": {"activation": {"calibration_type": ["max", "kl"]}}}'
    )
    content, layers = explained(capsys, "search.json")
    tried = layers["conv1"]["settings"]["candidates"]["value"]
    assert [t.partition("(")[0] for t in tried] == ["activation max", "activation kl-merge"]
    assert content["whole_model"]["search"]["scope"] == "model"
    assert run("explain", "pools.onnx", "--recipe", "search.json", "--all") == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^.* {re.escape(t)}$", out, re.MULTILINE) for t in tried)


def test_explain_in_words(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "pools.onnx", "--recipe", "quant.cfg", "--all") == 0
    out = capsys.readouterr().out
    assert "quant.cfg for pools.onnx, target layers-only" in out
    assert "5 layers: 4 quantized, 1 left in float" in out
    assert re.search(
        r"weight bits +7 +model +quant\.cfg:5 common_config arq_quantize\.quant_bits", out
    )
    assert "conv2 (Conv), stays in float: float32 asked for by" in out
    assert "Not done as asked\n  quant.cfg:5 common_config arq_quantize." in out
    assert max(map(len, out.splitlines())) < 200
    assert run("explain", "pools.onnx", "--recipe", "quant_config.json", "--all") == 0
    out = capsys.readouterr().out
    assert re.search(r"input 0 '\w+'\n +activation bits +16 +input ", out)
    (files / "trained.yaml").write_text("calibrant: 1\ntraining: true\n")
    assert run("explain", "pools.onnx", "--recipe", "trained.yaml") == 0
    out = capsys.readouterr().out
    refused = (
        "Not implemented yet, so 'calibrant quantize' refuses it\n  ranges learned by training"
    )
    assert refused in out


def test_layers_with_equal_settings_are_one_row(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", "pools.onnx", "--recipe", "quant.cfg") == 0
    out = capsys.readouterr().out
    assert re.search(
        r"2 Conv +int8 ifmr with search_step 0\.02 asymmetric +int7 arq per channel +conv1, conv3$",
        out,
        re.M,
    )
    assert re.search(
        r"1 Gemm +int8 hfmg with bins 2048 asymmetric +int8 arq per tensor +y$", out, re.M
    )
    assert "1 Conv in float: float32 asked for by quant.cfg:3 skip_layers 'conv2': conv2" in out
    assert re.search(r"quant\.cfg:10 .* type +1 +activation algorithm 'hfmg with bins 2048'", out)
    assert run("explain", "pools.onnx", "--recipe", "quant_config.json") == 0
    assert "input 0 of conv3: activations of 16 bits" in capsys.readouterr().out


def test_a_large_model_is_explained_in_a_few_lines(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that says everything of every layer says the same of nearly all of them."""
    onnx.save(NETS["residual"]()[0], "residual.onnx")
    assert run("init", "residual.onnx", "--dialect", "amct", "-o", "config.json") == 0
    capsys.readouterr()
    assert run("explain", "residual.onnx", "--recipe", "config.json") == 0
    assert capsys.readouterr().out.count("\n") < 30
    assert run("explain", "residual.onnx", "--recipe", "config.json", "--all") == 0
    assert capsys.readouterr().out.count("weight bits") == 5


def test_explain_shows_the_layers_that_are_asked_for(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", "pools.onnx", "--recipe", "quant.cfg", "--layer", "conv[13]") == 0
    out = capsys.readouterr().out
    assert "conv1, conv3 (Conv), quantized" in out
    shown = out.split("Not done as asked")[0]
    assert shown.count("weight bits") == 1
    assert "conv2" not in shown
    assert run("explain", "pools.onnx", "--recipe", "quant.cfg", "--layer", "y", "--json") == 0
    assert [d["layer"] for d in printed_json(capsys)["layers"]] == ["y"]
    assert run("explain", "pools.onnx", "--recipe", "quant.cfg", "--layer", "konv1") == 5
    assert "Did you mean 'conv1'" in capsys.readouterr().err


def test_explain_sees_the_model_as_the_pipeline_does(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folded batch normalization is no layer, and unnamed nodes have the names of the plan."""
    onnx.save(NETS["unnamed_nodes"]()[0], "net.onnx")
    x = NETS["unnamed_nodes"]()[1](batch=4, seed=0)
    np.savez("net.npz", **x)  # type: ignore[arg-type]
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
    before, after = tidy(load_recipe(GOLDEN / source)), load_recipe(files / "recipe.yaml")
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
    assert printed.out.startswith(
        f"# {source.name}, as a recipe of calibrant's own\ncalibrant: 1\n"
    )
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
    assert (
        "Note: quant.cfg:5 common_config arq_quantize.quant_bits: weight bits is 7 for an AveragePool"
        in printed.err
    )


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
