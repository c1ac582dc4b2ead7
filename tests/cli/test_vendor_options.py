"""Every option of every vendor's configuration changes the result in the way it says.

A row has a network, a configuration, the same with one option changed, and what must be different.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from tests.models import NETS

Doc = dict[str, Any]
Check = Callable[["Outcome", "Outcome"], bool]


@dataclass(frozen=True)
class Outcome:
    """What a run left, as far as options show in it.

    Args:
        activations: First reader of a quantized tensor -> its entry in plan.json.
        weights: Layer -> its entry in plan.json.
        quantized: Layers in integers.
        nodes: Operators of the deployed model.
        outputs: Type of each output.
        summary: summary.json.
        deploy: The deployed model.
    """

    activations: dict[str, Any]
    weights: dict[str, Any]
    quantized: frozenset[str]
    nodes: tuple[str, ...]
    outputs: tuple[int, ...]
    summary: Doc
    deploy: bytes

    def scale(self, reader: str) -> Any:
        """Return scale and zero point of an input."""
        entry = self.activations[reader]
        return entry["scale"], entry["zero_point"]


@cache
def net(name: str) -> tuple[bytes, dict[str, Any]]:
    model, feeds = NETS[name]()
    data = feeds(batch=16, seed=1)
    spread = np.random.default_rng(3).standard_t(2, size=(16,) + (1,) * 3).astype(np.float32)
    return model.SerializeToString(), {k: v * (1 + np.abs(spread)) for k, v in data.items()}


#: What runs left, by network, configuration and its suffix: many rows begin with the same one.
LEFT: dict[tuple[str, str, str], Outcome] = {}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Quantize a network by a configuration; return what it left."""
    monkeypatch.chdir(tmp_path)

    def go(name: str, text: str, capsys: pytest.CaptureFixture[str], suffix: str) -> Outcome:
        key = name, text, suffix
        if key not in LEFT:
            LEFT[key] = ran(name, text, capsys, suffix)
        return LEFT[key]

    def ran(name: str, text: str, capsys: pytest.CaptureFixture[str], suffix: str) -> Outcome:
        model, data = net(name)
        Path("net.onnx").write_bytes(model)
        np.savez("net.npz", **data)
        Path(f"c{suffix}").write_text(text)
        args = ["quantize", "net.onnx", "--data", "net.npz", "--batch-size", "4"]
        out = f"run{len(list(Path().iterdir()))}"
        code = main([*args, "--recipe", f"c{suffix}", "--out", out])
        said = capsys.readouterr().err
        assert code == 0, said
        return outcome(Path(out))

    return go


def outcome(folder: Path) -> Outcome:
    plan = json.loads((folder / "plan.json").read_text())
    deploy = onnx.load(folder / "deploy.onnx")
    by_role: dict[str, dict[str, Any]] = {"activation": {}, "weight": {}}
    for entry in plan["tensors"]:
        entry = {k: v for k, v in entry.items() if k != "rule"}
        key = entry["readers"][0] if entry["readers"] else entry["tensor"]
        by_role[entry["role"]][key if entry["role"] == "activation" else key.split(":")[0]] = entry
    return Outcome(
        by_role["activation"],
        by_role["weight"],
        frozenset(d["layer"] for d in plan["layers"] if d["quantized"]),
        tuple(n.op_type for n in deploy.graph.node),
        tuple(o.type.tensor_type.elem_type for o in deploy.graph.output),
        json.loads((folder / "summary.json").read_text()),
        deploy.SerializeToString(),
    )


# ------------------------------------------------------------------------------------------- what differs


def scales(*readers: str) -> Check:
    """The grids of these inputs differ, and those of no other."""

    def check(a: Outcome, b: Outcome) -> bool:
        assert a.activations.keys() == b.activations.keys()
        found = {r for r in a.activations if a.scale(r) != pytest.approx(b.scale(r), rel=1e-5)}
        return found == {*readers}

    return check


def every_scale(a: Outcome, b: Outcome) -> bool:
    return a.activations.keys() == b.activations.keys() and all(
        a.scale(r) != b.scale(r) for r in a.activations
    )


def some_scale(a: Outcome, b: Outcome) -> bool:
    return any(a.scale(r) != b.scale(r) for r in a.activations.keys() & b.activations.keys())


def algorithms(a: Outcome, b: Outcome) -> bool:
    """Every range is chosen by another algorithm."""
    return a.activations.keys() == b.activations.keys() and all(
        a.activations[r]["algorithm"] != b.activations[r]["algorithm"] for r in a.activations
    )


def symmetric(*readers: str) -> Check:
    """These inputs are symmetric in one of the runs alone."""

    def check(a: Outcome, b: Outcome) -> bool:
        return {
            r
            for r in a.activations
            if a.activations[r]["symmetric"] != b.activations[r]["symmetric"]
        } == {*readers}

    return check


def types(**layers: str) -> Check:
    """The inputs of these layers have another type than before, and no others have."""

    def check(a: Outcome, b: Outcome) -> bool:
        found = {
            r.split(":")[0]: e["type"]
            for r, e in b.activations.items()
            if e["type"] != a.activations[r]["type"]
        }
        return found == layers

    return check


def weights(field: str, *layers: str) -> Check:
    """A field of the weights of these layers differs, and of no other's."""

    def check(a: Outcome, b: Outcome) -> bool:
        return {n for n in a.weights if a.weights[n][field] != b.weights[n][field]} == {*layers}

    return check


def floats(*layers: str) -> Check:
    """These layers stay in float in the second run alone."""
    return lambda a, b: a.quantized - b.quantized == {*layers} and b.quantized <= a.quantized


def readers(*added: str) -> Check:
    """These inputs are quantized in the second run alone."""
    return lambda a, b: b.activations.keys() - a.activations.keys() == {*added}


def passes(name: str) -> Check:
    """A pass over the model did something in the second run alone."""
    return lambda a, b: not a.summary["passes"][name] and bool(b.summary["passes"][name])


def samples(a: Outcome, b: Outcome) -> bool:
    return bool(a.summary["data"]["samples"] != b.summary["data"]["samples"]) and some_scale(a, b)


def nodes(op: str) -> Check:
    """The deployed models have this operator in different numbers."""
    return lambda a, b: a.nodes.count(op) != b.nodes.count(op)


def outputs(a: Outcome, b: Outcome) -> bool:
    return a.outputs != b.outputs or a.deploy != b.deploy


def model(a: Outcome, b: Outcome) -> bool:
    return a.deploy != b.deploy


def check_row(
    run: Callable[..., Outcome],
    capsys: pytest.CaptureFixture[str],
    name: str,
    before: str,
    after: str,
    differs: Check,
    suffix: str,
) -> None:
    first, second = (run(name, text, capsys, suffix) for text in (before, after))
    assert differs(first, second)


LAYERS = ("conv1", "conv2", "avg1", "conv3", "y")
INPUTS = tuple(f"{n}:0" for n in LAYERS)

# ---------------------------------------------------------------------------------------- AMCT config.json

ON: Doc = {"quant_enable": True}


def layer(**said: Any) -> Doc:
    return {**ON, **said}


def act(**said: Any) -> Doc:
    return layer(activation_quant_params=said)


def wts(**said: Any) -> Doc:
    return layer(weight_quant_params=said)


BASE_JSON: Doc = {"batch_num": 2, **dict.fromkeys(LAYERS, ON)}


@pytest.mark.parametrize(
    ("name", "base", "option", "differs"),
    [
        ("pools", {}, {"batch_num": 4}, samples),
        ("pools", {}, {"activation_offset": False}, symmetric(*INPUTS)),
        ("residual", {**{f"conv{i}": ON for i in range(5)}}, {"joint_quant": True}, some_scale),
        ("conv_bn_relu", {"conv1": ON, "conv2": ON}, {"do_fusion": False}, nodes("BatchNormalization")),
        ("conv_bn_relu", {"conv1": ON, "conv2": ON}, {"skip_fusion_layers": ["conv1"]}, nodes("BatchNormalization")),
        ("pools", {}, {"fakequant_precision_mode": "FORCE_FP16_QUANT"}, every_scale),
        ("pools", {}, {"tensor_quantize": [{"layer_name": "max1", "input_index": 0}]}, readers("max1:0")),
        ("residual", {"conv0": ON}, {"tensor_quantize": [{"layer_name": "add1", "input_index": 1}]}, readers("add1:1")),
        ("pools", {}, {"conv2": {"quant_enable": False}}, floats("conv2")),
        ("pools", {}, {"conv2": layer(dmq_balancer_param=0.5)}, passes("balanced")),
        ("pools", {"conv2": layer(dmq_balancer_param=0.2)}, {"conv2": layer(dmq_balancer_param=0.8)}, some_scale),
        ("pools", {}, {"conv2": act(num_bits=16)}, types(conv2="int16")),
        ("pools", {}, {"conv2": act(act_algo="hfmg")}, scales("conv2:0")),
        ("pools", {"conv2": act(num_of_bins=8192)}, {"conv2": act(num_of_bins=1024)}, scales("conv2:0")),
        ("pools", {}, {"conv2": act(asymmetric=False)}, symmetric("conv2:0")),
        ("pools", {}, {"conv2": act(max_percentile=0.7)}, scales("conv2:0")),
        ("pools", {}, {"conv1": act(min_percentile=0.7)}, scales("conv1:0")),
        ("pools", {}, {"conv2": act(search_range=[0.2, 0.5])}, scales("conv2:0")),
        ("pools", {"conv2": act(search_range=[0.5, 1.1])}, {"conv2": act(search_range=[0.5, 1.1], search_step=0.4)},
         scales("conv2:0")),
        ("pools", {}, {"conv2": wts(num_bits=6)}, weights("type", "conv2")),
        ("pools", {}, {"conv2": wts(num_bits=7)}, weights("type", "conv2")),
        ("pools", {}, {"conv2": wts(channel_wise=False)}, weights("axis", "conv2")),
        ("pools", {}, {"conv2": wts(wts_algo="nuq_quantize")}, model),
        ("pools", {"conv2": wts(wts_algo="nuq_quantize")}, {"conv2": wts(wts_algo="nuq_quantize", num_steps=16)}, model),
        ("pools", {"conv3": wts(wts_algo="nuq_quantize", num_of_iteration=0, num_steps=16)},
         {"conv3": wts(wts_algo="nuq_quantize", num_of_iteration=5, num_steps=16)}, model),
        ("pools", {"conv2": wts(wts_algo="ada_quantize", num_iteration=0)},
         {"conv2": wts(wts_algo="ada_quantize", num_iteration=60)}, model),
        ("pools", {}, {"conv2": wts(wts_algo="ada_quantize", num_iteration=0)}, model),
    ],
)  # fmt: skip
def test_config_json(
    name: str, base: Doc, option: Doc, differs: Check, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {**(BASE_JSON if name == "pools" else {"batch_num": 2}), **base}
    before, after = json.dumps(whole), json.dumps({**whole, **option})
    check_row(run, capsys, name, before, after, differs, ".json")


# -------------------------------------------------------------------------------- AMCT simplified configuration


def common(block: str) -> str:
    return f"common_config {{ {block} }}\n"


@pytest.mark.parametrize(
    ("name", "base", "option", "differs"),
    [
        ("pools", "", "batch_num: 4\n", samples),
        ("pools", "", "activation_offset: false\n", symmetric(*INPUTS)),
        ("residual", "", "joint_quant: true\n", some_scale),
        ("pools", "", 'skip_layers: "conv2"\n', floats("conv2")),
        ("pools", "", 'skip_layer_types: "AvgPool2d"\n', floats("avg1")),
        ("pools", "", "fakequant_precision_mode: FORCE_FP16_QUANT\n", every_scale),
        ("conv_bn_relu", "", "do_fusion: false\n", nodes("BatchNormalization")),
        ("conv_bn_relu", "", 'skip_fusion_layers: "conv1"\n', nodes("BatchNormalization")),
        ("pools", "", 'tensor_quantize { layer_name: "max1" input_index: 0 }\n', readers("max1:0")),
        ("pools", 'tensor_quantize { layer_name: "max1" input_index: 0 }\n',
         'tensor_quantize { layer_name: "max1" input_index: 0 hfmg_quantize { num_of_bins: 1024 } }\n', scales("max1:0")),
        ("pools", "", common("hfmg_quantize { }"), some_scale),
        ("pools", "", common("ifmr_quantize { max_percentile: 0.7 }"), every_scale),
        ("pools", "", common("ifmr_quantize { search_range_end: 0.8 }"), some_scale),
        ("pools", "", common("ifmr_quantize { search_range_start: 1.25 }"), some_scale),
        ("pools", "", common("ifmr_quantize { search_step: 0.55 }"), some_scale),
        ("pools", "", common("ifmr_quantize { asymmetric: false }"), symmetric(*INPUTS)),
        ("pools", "", common("ifmr_quantize { dst_type: INT16 }"),
         types(conv1="int16", conv2="int16", conv3="int16", y="int16")),
        ("pools", "", common("arq_quantize { quant_bits: 6 }"), weights("type", "conv1", "conv2", "conv3")),
        ("pools", "", common("arq_quantize { channel_wise: false }"), weights("axis", "conv1", "conv2", "conv3")),
        ("pools", "", common("nuq_quantize { num_steps: 16 }"), model),
        ("pools", "", common("ada_quantize { num_iteration: 20 }"), model),
        ("pools", "", common("dmq_balancer { }"), passes("balanced")),
        ("pools", common("dmq_balancer { }"), common("dmq_balancer { migration_strength: 0.8 }"), some_scale),
        ("pools", "", 'override_layer_types { layer_type: "Gemm" calibration_config { ifmr_quantize { max_percentile: '
         "0.7 } } }\n", scales("y:0")),
        ("pools", "", 'override_layer_configs { layer_name: "conv3" calibration_config { arq_quantize { quant_bits: 6 '
         "} } }\n", weights("type", "conv3")),
    ],
)  # fmt: skip
def test_the_simplified_configuration(
    name: str, base: str, option: str, differs: Check, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "" if "batch_num" in option else "batch_num: 2\n"
    check_row(run, capsys, name, "batch_num: 2\n" + base, head + (option or base), differs, ".cfg")


# -------------------------------------------------------------------------------------- older Ascend converter

OLD = {
    "device": "USE_CPU",
    "quantize_algo": "HALF_OFFSET",
    "weight_type": "VECTOR_TYPE",
    "batch_count": "2",
    "preprocess_parameter": '{ input_type: BINARY input_file_path: "gone.bin" }',
}


@pytest.mark.parametrize(
    ("option", "differs"),
    [
        ({"quantize_algo": "NON_OFFSET"}, symmetric("conv1:0", "conv2:0", "conv3:0", "y:0")),
        ({"weight_type": "SCALAR_TYPE"}, weights("axis", "conv1", "conv2", "conv3", "y")),
        ({"type": "SYMKL", "bin": "32"}, some_scale),
        ({"type": "JSD"}, algorithms),
        ({"bin": "16"}, some_scale),
        ({"start_ratio": "0.2", "end_ratio": "0.4"}, every_scale),
        ({"end_ratio": "0.75"}, every_scale),
        ({"start_ratio": "1.2"}, every_scale),
        ({"step_ratio": "0.5"}, some_scale),
        ({"max_percentile": "0.7"}, every_scale),
        ({"batch_count": "4"}, samples),
        ({"exclude_op": '"conv2"'}, floats("conv2")),
    ],
)
def test_the_older_converters_file(
    option: dict[str, str], differs: Check, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = (
        "".join(f"{k}: {v}\n" for k, v in d.items()) for d in (OLD, {**OLD, **option})
    )
    check_row(run, capsys, "pools", before, after, differs, ".cfg")


# --------------------------------------------------------------------------------------------- Horizon

PLAIN: Doc = {"activation": {"calibration_type": "max"}}


def config(**said: Any) -> Doc:
    return {"model_config": {**PLAIN, **said}}


def ranges(**said: Any) -> Doc:
    return {"model_config": {"activation": said}}


def of_node(name: str, **said: Any) -> Doc:
    return {**config(), "node_config": {name: said}}


def winner(a: Outcome, b: Outcome) -> bool:
    """The second run searched and the first did not."""
    return not a.summary["search"] and bool(b.summary["search"])


LISTS = {"calibration_type": ["max", "kl"], "max_percentile": [1.0, 0.9]}


@pytest.mark.parametrize(
    ("name", "before", "after", "differs"),
    [
        ("pools", config(), config(all_node_type="int16"), lambda a, b: {e["type"] for e in b.activations.values()} == {"int16"}),
        ("pools", config(), config(all_node_type="float16"), passes("float16")),
        ("pools", config(), config(model_output_type="int8"), outputs),
        ("pools", config(), config(model_output_type="int16"), outputs),
        ("pools", config(), config(model_output_type="float16"), outputs),
        ("pools", config(), ranges(calibration_type="kl"), some_scale),
        ("pools", config(), ranges(calibration_type="mse"), some_scale),
        ("pools", config(), ranges(calibration_type="percentile", max_percentile=0.9), every_scale),
        ("pools", config(), ranges(calibration_type="max", max_percentile=0.9), every_scale),
        ("pools", config(), ranges(calibration_type="max", asymmetric=True), some_scale),
        ("pools", config(), ranges(calibration_type="min-max", asymmetric=True), some_scale),
        ("pools", config(), ranges(calibration_type="max", per_channel=True),
         lambda a, b: any(isinstance(e["scale"], list) and len(e["scale"]) > 1 for e in b.activations.values())),
        ("pools", ranges(calibration_type="kl"), ranges(calibration_type="kl", num_bin=129), some_scale),
        ("pools", ranges(calibration_type="kl", num_bin=2048), ranges(calibration_type="kl", num_bin=2048, max_num_bin=2048), some_scale),
        ("pools", config(), config(activation=LISTS), winner),
        ("pools", config(activation=LISTS), config(activation=LISTS, modelwise_search={"metric": "chebyshev", "num_sample": 8}),
         lambda a, b: a.summary["search"] != b.summary["search"]),
        ("pools", config(activation=LISTS), config(activation=LISTS, layerwise_search={}),
         lambda a, b: a.summary["search"]["scope"] != b.summary["search"]["scope"]),
        ("pools", config(), {"model_config": {}}, winner),
        ("pools", config(), config(weight={"bias_correction": {"num_sample": 8}}), passes("bias_by_rule")),
        ("pools", config(), config(search={"layer": {"topk": 1}}), lambda a, b: a.deploy != b.deploy),
        ("pools", config(), {**config(), "op_config": {"Gemm": {"qtype": "int16"}}}, types(y="int16")),
        ("pools", config(), {**config(), "subgraph_config": {"g": {"inputs": ["conv3"], "outputs": ["y"], "qtype": "float32"}}},
         lambda a, b: {"conv3", "y"} <= a.quantized - b.quantized),
        ("pools", config(), of_node("conv2", qtype="int16"), types(conv2="int16")),
        ("pools", config(), of_node("conv2", qtype="float32"), floats("conv2")),
        ("pools", config(), of_node("conv2", qtype="float16"), passes("float16")),
        ("pools", config(), of_node("conv2", input0="int16"), types(conv2="int16")),
        ("pools", config(), of_node("conv2", input1="int16"), weights("type", "conv2")),
        ("pools", config(), of_node("conv2", input1="ec"), model),
        ("pools", config(), of_node("conv2", qtype="dual-int16"), types(conv2="int16")),
        ("pools", of_node("conv2", qtype="int16"), of_node("conv2", qtype="int16-ec"), model),
        ("pools", config(), of_node("conv2", activation={"max_percentile": 0.9}), scales("conv2:0")),
        ("pools", config(), ranges(calibration_type="skip"), lambda a, b: bool(b.summary["data"]["random"])),
    ],
)  # fmt: skip
def test_quant_config(
    name: str,
    before: Doc,
    after: Doc,
    differs: Check,
    run: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_row(run, capsys, name, json.dumps(before), json.dumps(after), differs, ".json")
