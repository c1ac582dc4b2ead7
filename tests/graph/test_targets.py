"""Targets as data: those that calibrant ships, files of the user's, and those of installed packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant import quantize_from_record
from calibrant.cli import main
from calibrant.dialects import dump_recipe, load_recipe
from calibrant.errors import ConfigError, ConfigValueError
from calibrant.graph import targets
from calibrant.graph.ops import ACTIVATION_FUNCTIONS, OP_RULES
from calibrant.graph.targets import Target, WidthLimit, registry
from calibrant.numerics.dtype import INT_BITS
from calibrant.recipe import Recipe
from tests.models import NETS
from tests.road import batches, quantize, quantized

NPU = """\
# Two operators in integers, one chain.
calibrant_target: 1
name: my-npu
description: "My NPU: int8, zero point 0."
anchors: [Conv, Gemm]
integer_outputs: [Conv]
followers: [Add, MaxPool]
fused: [Relu, Clip]
shared: [MaxPool]
limits:
  - {op: Gemm, input: 1, bits: [8]}
symmetric: true
activation_bits: [8]
weight_bits: [4, 8]
"""
AS_PYTHON = Target(
    name="my-npu",
    description="My NPU: int8, zero point 0.",
    anchors=frozenset({"Conv", "Gemm"}),
    integer_outputs=frozenset({"Conv"}),
    followers=frozenset({"Add", "MaxPool"}),
    fused=frozenset({"Relu", "Clip"}),
    shared=frozenset({"MaxPool"}),
    limits=(WidthLimit("Gemm", 1, (8,)),),
    symmetric=True,
    activation_bits=(8,),
    weight_bits=(4, 8),
)


@pytest.fixture
def npu(tmp_path: Path) -> Path:
    path = tmp_path / "my_npu.yaml"
    path.write_text(NPU)
    return path


# ------------------------------------------------------------------------------------------- built in


def test_targets_name_operators_of_the_table_alone() -> None:
    assert targets.builtin() == [
        "generic",
        "horizon-like",
        "int8-only",
        "layers-only",
        "onnxruntime",
        "openvino",
        "tensorrt",
    ]
    for name in targets.builtin():
        target = targets.get(name)
        assert target.name == name
        for ops in (target.anchors, target.followers, target.fused, target.shared):
            assert ops <= set(OP_RULES)
        assert target.integer_outputs <= target.anchors
        assert target.description.endswith(".")


def test_a_device_with_a_wide_accumulator_runs_every_activation_function_inside_a_layer() -> None:
    for name in ("generic", "layers-only", "int8-only", "horizon-like", "openvino", "tensorrt"):
        assert targets.get(name).fused == ACTIVATION_FUNCTIONS


def test_a_target_that_does_not_exist_is_an_error_with_a_near_name() -> None:
    with pytest.raises(ConfigValueError, match=r"'generik'.*ends in .*Did you mean 'generic'"):
        targets.get("generik")


# ------------------------------------------------------------------------------------ a file of one's own


def test_a_file_is_a_target(npu: Path) -> None:
    assert targets.get(npu) == targets.get(str(npu)) == AS_PYTHON


def test_a_file_is_read_again_when_it_has_changed(npu: Path) -> None:
    assert targets.get(npu).symmetric
    npu.write_text(NPU.replace("symmetric: true", "symmetric: false"))
    assert not targets.get(npu).symmetric


def test_json_is_a_target_too(tmp_path: Path) -> None:
    path = tmp_path / "npu.json"
    path.write_text(json.dumps(targets.to_mapping(AS_PYTHON)))
    assert targets.get(path) == AS_PYTHON


def test_like_takes_over_what_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "calibrant_target: 1\nname: mine\ndescription: Mine.\nlike: horizon-like\nwidest: []\n"
    )
    found, base = targets.get(path), targets.get("horizon-like")
    assert found.anchors == base.anchors
    assert found.limits == base.limits
    assert found.symmetric
    assert found.widest == frozenset()


def test_like_names_a_file_beside_the_file(npu: Path) -> None:
    path = npu.parent / "second.yaml"
    path.write_text(
        "calibrant_target: 1\nname: second\ndescription: D.\nlike: my_npu.yaml\nsymmetric: false"
    )
    found = targets.get(path)
    assert (found.name, found.anchors, found.symmetric) == ("second", AS_PYTHON.anchors, False)


def test_what_a_file_leaves_out_is_as_in_python() -> None:
    text = {"calibrant_target": 1, "name": "n", "description": "D.", "anchors": ["Conv"]}
    assert targets.from_mapping(text, "here") == Target("n", "D.", frozenset({"Conv"}))


operators = st.frozensets(st.sampled_from(["Conv", "Gemm", "MatMul", "Add", "Concat"]), min_size=1)
widths = st.lists(st.sampled_from(INT_BITS), min_size=1, unique=True).map(tuple)


@given(
    st.builds(
        Target,
        name=st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True),
        description=st.sampled_from(["My NPU: int8.", "yes", "12", "it's # one"]),
        anchors=operators,
        limits=st.lists(
            st.builds(
                WidthLimit,
                st.sampled_from([None, "Conv"]),
                st.sampled_from([None, 0, 1]),
                widths,
                st.sampled_from([(), (16,)]),
            ),
            max_size=2,
        ).map(tuple),
        symmetric=st.booleans(),
        activation_bits=widths,
        weight_bits=widths,
        channel_scales=st.booleans(),
        matmul_as_gemm=st.booleans(),
    )
)
def test_a_target_written_and_read_is_the_same(target: Target) -> None:
    assert targets.from_mapping(targets.to_mapping(target), "here") == target


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("calibrant_target: 1", "", r"calibrant_target is missing"),
        ("calibrant_target: 1", "calibrant_target: 2", r":2: calibrant_target is 2; .* 1"),
        ("calibrant_target: 1", "calibrant: 1", r":2: this is a recipe; a target begins with"),
        ("name: my-npu", "name: my npu", r":3: name is 'my npu'; it has letters, digits"),
        ("name: my-npu", "name: generic", r"name is 'generic', which is a target of calibrant's"),
        ('description: "My NPU: int8, zero point 0."', "", r"description is missing"),
        ("anchors: [Conv, Gemm]", "", r"anchors is missing"),
        (
            "anchors: [Conv, Gemm]",
            "anchors: []",
            r":5: anchors is \[\]; it has at least 1 element",
        ),
        ("anchors: [Conv, Gemm]", "anchors: Conv", r":5: anchors is 'Conv'; it is a list"),
        ("[Conv, Gemm]", "[Conv2d, Gemm]", r":5: anchors .*'Conv2d' is none of.*you mean 'Conv"),
        ("[Conv, Gemm]", "[Conv, Gemm, Conv]", r":5: anchors .*'Conv' stands twice"),
        (
            "anchors: [Conv, Gemm]",
            "anchors: [Gemm]",
            r":6: integer_outputs .*'Conv' is not in anc",
        ),
        ("[Add, MaxPool]", "[Add, Gemm]", r":7: followers .*'Gemm' is an anchor already"),
        ("[Add, MaxPool]", "[MaxPool]\nfeeders: [Gemm]", r":8: feeders .*'Gemm' is an anchor"),
        ("symmetric: true", "zero_points: false", r"symmetric is false; zero_points is false, so"),
        (
            "shared: [MaxPool]",
            "residuals: [Mul]",
            r":9: residuals .*'Mul' is none of the additions",
        ),
        ("[Relu, Clip]", "[Relu, Add]", r":8: fused .*'Add' is none of the activation functions"),
        ("shared: [MaxPool]", "shared: [Conv]", r":9: shared .*'Conv' is none of the operators"),
        ("shared: [MaxPool]", "share: [MaxPool]", r":9: share is not known.*you mean 'shared'"),
        ("shared: [MaxPool]", "widest: [Mul]", r":9: widest .*'Mul' is not in anchors, foll"),
        ("op: Gemm", "op: Gem", r":11: limits\[0\].op is 'Gem'; it is .*Did you mean 'Gemm'"),
        ("input: 1", "input: -1", r":11: limits\[0\].input is -1; it is 0 or more"),
        ("bits: [8]", "bits: []", r":11: limits\[0\].bits is \[\]; it has at least 1"),
        (", bits: [8]", "", r":11: limits\[0\].bits is missing"),
        ("symmetric: true", "symmetric: 1", r":12: symmetric is 1; it is true or false"),
        ("bits: [4, 8]", "bits: [5, 8]", r":14: weight_bits\[0\] is 5; it is 4, 6, 7, 8 or 16"),
        ("bits: [4, 8]", "bits: [8, 8]", r":14: weight_bits is \[8, 8\]; 8 stands twice"),
        ("symmetric: true", "like: generik", r":12: like: Unknown target 'generik'.*'generic'"),
        (
            "symmetric: true",
            "like: gone.yaml",
            r":12: like: The target '.*gone.yaml' cannot be re",
        ),
        ("symmetric: true", "like: my_npu.yaml", r":12: like: the file is like itself: .* -> .*"),
        (
            "symmetric: true",
            "symmetric: true\nsymmetric: true",
            r":13: 'symmetric' stands here and",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(
    npu: Path, was: str, now: str, message: str
) -> None:
    assert was in NPU
    npu.write_text(NPU.replace(was, now, 1))
    with pytest.raises(ConfigError, match=message) as found:
        targets.get(npu)
    assert str(npu) in str(found.value)


def test_a_text_that_is_no_mapping_is_an_error(npu: Path) -> None:
    npu.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"my_npu.yaml:1: a target is a mapping of keys; this"):
        targets.get(npu)


def test_a_file_that_is_not_there_is_an_error_with_a_near_name(npu: Path) -> None:
    with pytest.raises(ConfigValueError, match=r"my_np.yaml.*Did you mean 'my_npu.yaml'"):
        targets.get(npu.with_name("my_np.yaml"))


# ---------------------------------------------------------------------------------------- entry points


def entries(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Let installed packages bring targets."""
    for name, value in values.items():
        monkeypatch.setattr(targets, f"entry_{name}", value, raising=False)
    found = [
        EntryPoint(name.replace("_", "-"), f"calibrant.graph.targets:entry_{name}", registry.GROUP)
        for name in values
    ]
    registry._entry_points.cache_clear()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)


@pytest.fixture(autouse=True)
def _no_entry_stays() -> Iterator[None]:
    yield
    registry._entry_points.cache_clear()


def test_an_entry_point_is_a_target_or_the_path_of_its_file(
    npu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Target("other", "Another.", frozenset({"Gemm"}))
    entries(monkeypatch, my_npu=npu, other=other)
    assert targets.get("my-npu") == AS_PYTHON
    assert targets.get("other") is other
    assert {"my-npu", "other", "generic"} <= set(targets.names())


def test_an_entry_point_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    entries(monkeypatch, number=3, misnamed=AS_PYTHON)
    with pytest.raises(
        ConfigError, match=r"'number' of calibrant.targets is a int .*it is a Targ"
    ):
        targets.get("number")
    with pytest.raises(ConfigError, match=r"'misnamed'.*called 'my-npu'"):
        targets.get("misnamed")
    entries(monkeypatch, generic=AS_PYTHON)
    with pytest.raises(ConfigError, match=r"Two targets are called 'generic'"):
        targets.names()


# ------------------------------------------------------------------------------------ where they are used


def test_a_path_is_a_target_of_a_model(npu: Path) -> None:
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds), Recipe(target=str(npu)))
    assert result.summary["target"] == "my-npu"
    generic = quantized("residual", "generic").plan.activations
    assert {a.tensor for a in result.plan.activations} > {a.tensor for a in generic}  # Adds, too
    assert not any(p.zero_point.any() for p in result.params.activations.values())


def test_a_record_holds_a_target_that_only_its_file_knew(npu: Path, tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    quantize(model, batches(feeds), Recipe(target=str(npu))).save(tmp_path / "out")
    npu.unlink()
    again = quantize_from_record(model, tmp_path / "out" / "record.txt")
    assert again.plan.target == AS_PYTHON
    again.save(tmp_path / "again")
    for file in ("deploy.onnx", "fake_quant.onnx", "record.txt", "record.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_a_record_with_a_damaged_target_is_an_error(npu: Path, tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    quantize(model, batches(feeds), Recipe(target=str(npu))).save(tmp_path / "out")
    record = tmp_path / "out" / "record.txt"
    record.write_text(record.read_text().replace('"anchors": ["Conv"', '"anchors": ["Conf"'))
    with pytest.raises(ConfigValueError, match=r"record.txt: target: anchors .*'Conf' is none of"):
        quantize_from_record(model, record)


def test_a_recipe_names_a_file_beside_itself(
    npu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("calibrant: 1\ntarget: my_npu.yaml\n")
    monkeypatch.chdir("/")
    loaded = load_recipe(recipe)
    assert targets.get(loaded.target) == AS_PYTHON
    assert load_recipe(dump_recipe(loaded)).target == loaded.target


def test_the_command_line_takes_a_file(
    npu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, feeds = NETS["residual"]()
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", **feeds(batch=8, seed=0))  # type: ignore[arg-type]
    model_and_target = [str(tmp_path / "model.onnx"), "--target", str(npu)]
    data, out = str(tmp_path / "calib.npz"), tmp_path / "out"
    assert main(["quantize", *model_and_target, "--data", data, "-o", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["target"] == "my-npu"
    assert main(["init", *model_and_target, "-o", str(tmp_path / "recipe.yaml")]) == 0
    assert load_recipe(tmp_path / "recipe.yaml").target == str(npu)
    odd = npu.rename(tmp_path / "my npu: #1.yaml")
    again = ["init", model_and_target[0], "--target", str(odd), "-o", str(tmp_path / "odd.yaml")]
    assert main(again) == 0
    assert load_recipe(tmp_path / "odd.yaml").target == str(odd)
    npu.write_text(NPU.replace("symmetric: true", "symmetric: 1"))
    assert main(["init", *model_and_target]) == 5
    assert "my_npu.yaml:12: symmetric is 1; it is true or false." in capsys.readouterr().err


def test_only_targets_whose_files_run_on_cpus_fit_sums_of_two_products() -> None:
    said = {name: targets.get(name).narrow_sums for name in targets.builtin()}
    asked = {name: how for name, how in said.items() if how != "ignore"}
    assert asked == {"generic": "try", "onnxruntime": "fit"}
