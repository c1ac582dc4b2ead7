"""Nodes are ranked by what the outputs lose: figures are those of whole models with some calibration nodes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibrant import debug
from calibrant.debug import sensitivity
from calibrant.debug.calibrations import read_calibrated
from calibrant.debug.partial import Partial
from calibrant.debug.samples import opened_subject
from calibrant.errors import ConfigRuntimeError, ConfigValueError, ModelError
from calibrant.formats.horizon.calibrated import emit_calibrated
from calibrant.numerics.metrics import METRICS
from calibrant.runtime.measure import run
from tests.debug.nets import (
    ACTIVATIONS,
    NODES,
    WEIGHTS,
    calibrated,
    chain,
    data_of,
    samples,
    without,
)
from tests.models import NETS

#: One sabotaged scale, the kind of node, and what is worst then.
SABOTAGE = [
    ("v1", 0.1, "weight", "w1__calib", "rounding"),
    ("v2", 0.0005, "weight", "w2__calib", "truncation"),
    ("t", 0.5, "activation", "a__calib", "rounding"),
    ("u", 0.002, "activation", "b__calib", "truncation"),
    ("t", 0.5, "node", "second", "rounding"),
]


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize(("scale", "value", "kind", "worst", "cause"), SABOTAGE)
def test_a_sabotaged_node_is_first_by_every_metric(
    metric: str, scale: str, value: float, kind: str, worst: str, cause: str
) -> None:
    subject = opened_subject(chain(**{scale: value}), samples(), None)
    found = sensitivity.rank_nodes(subject, metric, node_type=kind)
    assert found.nodes[0].name == worst
    assert found.nodes[0].cause == cause


def test_kinds_are_disjoint_and_complete() -> None:
    found = {
        k: debug.get_sensitivity_of_nodes(chain(), samples(), node_type=k)
        for k in sensitivity.KINDS
    }
    assert set(found["node"]) == set(NODES)
    assert set(found["weight"]) == set(WEIGHTS)
    assert set(found["activation"]) == set(ACTIVATIONS)


@pytest.mark.parametrize("metric", list(METRICS))
def test_figures_are_those_of_whole_models_sample_by_sample(metric: str) -> None:
    x, model = samples(), chain()
    found = debug.get_sensitivity_of_nodes(model, x, [metric], node_type="activation")
    truth = run(without(model, set()), [x], optimize=False)[0]["y"]
    for name in ACTIVATIONS:
        mine = run(without(model, {name}), [x], optimize=False, integers=False)[0]["y"]
        each = [METRICS[metric].measure(a, b) for a, b in zip(truth, mine, strict=True)]
        assert found[name][metric] == pytest.approx(np.mean(each), rel=1e-12)
    values = [v[metric] for v in found.values()]
    assert METRICS[metric].worst_first(values) == list(range(len(values)))


def test_an_ordinary_node_is_quantized_with_all_in_front_of_it() -> None:
    x, model = samples(), chain()
    found = debug.get_sensitivity_of_nodes(model, x, "mse")
    truth = run(without(model, set()), [x], optimize=False)[0]["y"]
    mine = run(without(model, {"a__calib", "w1__calib"}), [x], optimize=False, integers=False)[0][
        "y"
    ]
    assert found["second"]["mse"] == pytest.approx(METRICS["mse"].measure(truth, mine), rel=1e-6)


def test_nodes_in_a_list_of_their_own_are_quantized_together() -> None:
    x, model = samples(), chain()
    found = debug.get_sensitivity_of_nodes(
        model, x, "mse", node_type="weight", interested_nodes=[["first", "b__calib"], "third"]
    )
    assert set(found) == {"first,b__calib", "third"}
    truth = run(without(model, set()), [x], optimize=False)[0]["y"]
    on = {"x__calib", "w0__calib", "b__calib"}
    mine = run(without(model, on), [x], optimize=False, integers=False)[0]["y"]
    assert found["first,b__calib"]["mse"] == pytest.approx(
        METRICS["mse"].measure(truth, mine), rel=1e-6
    )


def test_an_output_node_is_the_place_of_comparison() -> None:
    x, model = samples(), chain()
    found = debug.get_sensitivity_of_nodes(model, x, "mse", output_node="second")
    assert found["third"]["mse"] == 0
    truth = run(_with_output(without(model, set())), [x], optimize=False)[0]["b"]
    mine = run(
        _with_output(without(model, {"x__calib", "w0__calib"})),
        [x],
        optimize=False,
        integers=False,
    )
    assert found["first"]["mse"] == pytest.approx(
        METRICS["mse"].measure(truth, mine[0]["b"]), rel=1e-6
    )


def _with_output(model: Any) -> Any:
    model.graph.outputs.append(model.graph.node("second").outputs[0])
    return model


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@pytest.mark.parametrize(
    "name", ["residual", "two_in_two_out", "if_in_if", "attention_add", "conv_transpose"]
)
def test_all_nodes_on_are_the_calibrated_model_bit_for_bit(name: str, target: str) -> None:
    result = calibrated(name, target)
    found, x = read_calibrated(result), data_of(name)
    solution = result.solution
    whole = emit_calibrated(solution.model, solution.plan, solution.params)
    subject = opened_subject(result, x, None)
    partial = subject.partial(found.outputs)
    for group in partial.groups():
        feeds = [dict(partial.feeds.batches[i].feeds) for i in group]
        mine = partial.run(list(found.nodes), range(len(group)))
        for a, b in zip(run(whole, feeds, optimize=False, integers=False), mine, strict=True):
            for key, value in a.items():
                np.testing.assert_array_equal(value, b[key])


def test_only_what_lies_behind_a_node_is_run() -> None:
    subject = opened_subject(chain(), samples(), None)
    partial = Partial(subject.calibrated, subject.calibrated.outputs, subject.feeds)
    (group,) = partial.groups()
    before = partial.work.nodes
    partial.run(["b__calib"], range(len(group)))
    assert partial.work.nodes - before == len(group)  # the third product alone


def test_files_are_the_vendors_and_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = debug.get_sensitivity_of_nodes(
        chain(), samples(), ["mse", "sqnr"], node_type="weight", save_dir=tmp_path, verbose=True
    )
    table = (tmp_path / "sensitivity_of_weight.log").read_text()
    assert capsys.readouterr().out == table
    lines = table.splitlines()
    assert "weight sensitivity" in lines[0]
    assert lines[1].split() == ["node", "mse", "sqnr"]
    assert [x.split()[0] for x in lines[3:-1]] == list(found)
    content = json.loads((tmp_path / "sensitivity_of_weight.json").read_text())
    assert [n["name"] for n in content["nodes"]] == list(found)
    row = content["nodes"][0]
    assert row["op_type"] == "MatMul"
    assert row["qtype"] == "int8"
    assert row["macs"] == 64
    assert (
        (tmp_path / "sensitivity_of_weight.csv")
        .read_text()
        .splitlines()[0]
        .startswith("node,op_type,qtype,mse")
    )


def test_a_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    subject = opened_subject(chain(), samples(), None)
    first = sensitivity.rank_nodes(subject, "mse", save_dir=tmp_path)
    journal = tmp_path / "sensitivity_of_node.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:1]) + "\n" + lines[1][:20])
    again = sensitivity.rank_nodes(subject, "mse", save_dir=tmp_path)
    assert again.nodes == first.nodes
    assert again.work["reused"] == 1
    other = sensitivity.rank_nodes(
        opened_subject(chain(v1=0.1), samples(), None), "mse", save_dir=tmp_path
    )
    assert other.nodes[0].name == "second"  # nothing of the other model was taken


def test_texts_are_there_for_those_who_want_them() -> None:
    plain = debug.get_sensitivity_of_nodes(chain(), samples(), "sqnr")
    texts = debug.get_sensitivity_of_nodes(chain(), samples(), "sqnr", as_str=True)
    assert {n: {k: str(v) for k, v in m.items()} for n, m in plain.items()} == texts


WRONG = [
    ({"metrics": "cosine"}, ConfigValueError, "cosine-similarity"),
    ({"node_type": "weights"}, ConfigValueError, "weight"),
    ({"output_node": "thrd"}, ConfigValueError, "third"),
    ({"interested_nodes": ["frst"]}, ConfigValueError, "first"),
    ({"interested_nodes": [[]]}, ConfigValueError, "empty"),
    ({"data_num": 0}, ConfigValueError, "1 or more"),
]


@pytest.mark.parametrize(("options", "kind", "said"), WRONG)
def test_what_does_not_exist_is_told(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        debug.get_sensitivity_of_nodes(chain(), samples(), **options)


def test_a_float_model_and_one_with_integer_outputs_are_refused() -> None:
    model, feeds = NETS["gemm_mlp"]()
    with pytest.raises(ModelError, match="no calibration nodes"):
        debug.get_sensitivity_of_nodes(model, feeds(batch=2, seed=0))
    ends = chain()
    ends.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["class"], "argmax"))
    ends.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("class", onnx.TensorProto.INT64, None)
    )
    with pytest.raises(ConfigRuntimeError, match="output_node"):
        debug.get_sensitivity_of_nodes(ends, samples())
    found = debug.get_sensitivity_of_nodes(ends, samples(), output_node="third")
    assert len(found) == 3


def test_weights_that_a_file_holds_as_integers_are_told() -> None:
    result = calibrated("gemm_mlp")
    found = sensitivity.rank_nodes(opened_subject(result.deploy, data_of("gemm_mlp"), None))
    assert "weights are integers" in found.notes[0]
    assert found.nodes
