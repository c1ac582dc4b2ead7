"""accuracy_based_auto_calibration on a small network: a user's evaluator, strategy and sensitivity, and the vendor's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import calibrant
from calibrant.compat.amct import (
    AutoCalibrationEvaluatorBase,
    BinarySearchStrategy,
    MseSensitivity,
    Net,
    SensitivityBase,
    accuracy_based_auto_calibration,
)
from calibrant.dialects.amct.write import create_config
from calibrant.errors import ConfigTypeError, ConfigValueError, DataError
from tests.models import convolution
from tests.models.rescaled import rescaled
from tests.road import batches


def network() -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    model, feeds = convolution.residual()
    return rescaled(model, "w1", "w2"), batches(feeds)


class Evaluator(AutoCalibrationEvaluatorBase):
    """Outputs against the float model's.

    Args:
        least: The least SQNR that is good enough [dB].
    """

    def __init__(self, least: float, count: int = 2) -> None:
        self.least, self.count = least, count
        _, self.data = network()
        self.truth: list[np.ndarray] = []
        self.calibrated = 0
        self.said: list[float] = []

    def calibration(self, model: Net) -> None:
        self.calibrated += 1
        for feed in self.data[: self.count]:
            model(feed)

    def evaluate(self, model: Net) -> float:
        found = [model(*feed.values()) for feed in self.data]
        self.truth = self.truth or found
        noise = sum(float(np.square(a - b).sum()) for a, b in zip(found, self.truth, strict=True))
        signal = sum(float(np.square(b).sum()) for b in self.truth)
        self.said.append(10 * np.log10(signal / noise) if noise else np.inf)
        return self.said[-1]

    def metric_eval(self, original: float, new: float) -> tuple[bool, float]:
        return new >= self.least, self.least - new if np.isfinite(new) else -1.0


def run(tmp_path: Path, least: float, **options: Any) -> tuple[Any, Evaluator]:
    model, data = network()
    config = tmp_path / "config.json"
    config.write_text(create_config(model, batch_num=2))
    evaluator = Evaluator(least)
    found = accuracy_based_auto_calibration(
        model,
        evaluator,
        str(config),
        str(tmp_path / "record.txt"),
        str(tmp_path / "results" / "net"),
        tuple(data[0].values()),
        **options,
    )
    return found, evaluator


def names(tmp_path: Path) -> set[str]:
    found = (p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    return {str(p) for p in found}


MODELS = {"results/net_fake_quant_model.onnx", "results/net_deploy_model.onnx", "record.txt"}
RANKING = "results/accuracy_based_auto_calibration_ranking_information.json"
FINAL = "results/accuracy_based_auto_calibration_final_config.json"
RECORD = "results/amct_log/accuracy_based_auto_calibration_record.json"


def test_the_layer_that_loses_goes_back(tmp_path: Path) -> None:
    before = None
    found, evaluator = run(tmp_path, 25.0)
    assert found.found.outcome == "partial"
    assert found.found.ordered[0][0] == "conv2"  # its weight is what was rescaled
    assert not found.found.kept["conv2"]
    history = json.loads((tmp_path / RECORD).read_text())
    assert len(history) == evaluator.calibrated == len(evaluator.said) - 1
    assert [h["metric_eval"][0] for h in history] == [s >= 25.0 for s in evaluator.said[1:]]
    ranking = json.loads((tmp_path / RANKING).read_text())
    assert [s for _, s in ranking] == sorted(s for _, s in ranking)
    final = json.loads((tmp_path / FINAL).read_text())
    config = json.loads((tmp_path / "config.json").read_text())
    assert all(v["quant_enable"] for v in config.values() if isinstance(v, dict))
    kept = {n: v.pop("quant_enable") for n, v in final.items() if isinstance(v, dict)}
    assert kept == dict(found.found.kept)
    before = {n: v for n, v in config.items() if not isinstance(v, dict)}
    assert before == {n: v for n, v in final.items() if not isinstance(v, dict)}
    assert {*MODELS, RANKING, FINAL, RECORD, "config.json"} == names(tmp_path)


def test_the_files_are_the_model_that_was_evaluated_last(tmp_path: Path) -> None:
    found, evaluator = run(tmp_path, 25.0)
    session = ort.InferenceSession(str(tmp_path / "results" / "net_fake_quant_model.onnx"))
    mine = [session.run(None, feed)[0] for feed in evaluator.data]
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(mine, evaluator.truth, strict=True))
    signal = sum(float(np.square(b).sum()) for b in evaluator.truth)
    assert 10 * np.log10(signal / noise) == pytest.approx(found.final, abs=0.05)
    model, data = network()
    again = calibrant.quantize(model, data[:2], tmp_path / FINAL, latency=False)
    deployed = onnx.load(tmp_path / "results" / "net_deploy_model.onnx")
    assert len(again.plan.weights) == sum(found.found.kept.values())
    assert [n.op_type for n in deployed.graph.node] == [n.op_type for n in again.deploy.graph]


def test_what_is_good_enough_at_once_stays_quantized(tmp_path: Path) -> None:
    found, evaluator = run(tmp_path, -50.0)
    assert found.found.outcome == "quantized"
    assert evaluator.calibrated == 1
    assert len(json.loads((tmp_path / RECORD).read_text())) == 1
    assert names(tmp_path) >= {FINAL, RANKING, *MODELS}


def test_what_cannot_be_reached_leaves_no_model(tmp_path: Path) -> None:
    run(tmp_path, 25.0)
    found, _ = run(tmp_path, 400.0)
    assert found.found.outcome == "all rolled back"
    assert found.final is None
    left = names(tmp_path)
    assert not left & {FINAL, "results/net_fake_quant_model.onnx", "results/net_deploy_model.onnx"}
    assert {RANKING, RECORD} <= left
    history = json.loads((tmp_path / RECORD).read_text())
    assert not any(history[-1]["roll_back_config"].values())


def test_a_sensitivity_of_the_users_own_ranks(tmp_path: Path) -> None:
    class Reverse(SensitivityBase):
        def compare(self, data: np.ndarray, other: np.ndarray) -> float:
            assert data.ndim == other.ndim == 1
            return float(np.abs(data - other).max())

    by_cosine, _ = run(tmp_path, 25.0)
    mine, _ = run(tmp_path, 25.0, sensitivity=Reverse(), strategy=BinarySearchStrategy())
    assert [n for n, _ in mine.found.ordered] != [n for n, _ in by_cosine.found.ordered]
    assert mine.found.kept != by_cosine.found.kept


def test_the_largest_distance_comes_first() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert MseSensitivity().compare(x, x + 1) == pytest.approx(1.0)  # |(1, 1, 1, 1)| / 2
    assert MseSensitivity(do_normalization=True).compare(x, 2 * x) == pytest.approx(0, abs=1e-6)
    assert MseSensitivity.larger_is_worse


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"strategy": "Greedy"}, ConfigValueError, "strategy is 'Greedy'"),
        ({"strategy": object()}, ConfigTypeError, "without the method initialize"),
        ({"sensitivity": "Mse"}, ConfigValueError, "sensitivity is 'Mse'"),
        ({"sensitivity": object()}, ConfigTypeError, "without the method compare"),
        ({"input_names": ["nobody"]}, ConfigValueError, "input_names"),
        ({"dynamic_axes": {"nobody": {0: "N"}}}, ConfigValueError, "dynamic_axes"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(tmp_path, 10.0, **options)


def test_an_evaluator_that_refuses_the_float_model_is_an_error(tmp_path: Path) -> None:
    class Never(Evaluator):
        def metric_eval(self, original: float, new: float) -> tuple[bool, float]:
            return False, 1.0

    model, _ = network()
    config = tmp_path / "config.json"
    config.write_text(create_config(model))
    evaluator = Never(10.0)
    with pytest.raises(ValueError, match="not as good as itself"):
        accuracy_based_auto_calibration(
            model, evaluator, config, tmp_path / "r.txt", tmp_path / "net"
        )
    assert evaluator.calibrated == 0


def test_too_few_batches_of_calibration_are_an_error(tmp_path: Path) -> None:
    model, _ = network()
    config = tmp_path / "config.json"
    config.write_text(create_config(model, batch_num=3))
    with pytest.raises(DataError, match=r"on 1 batches; batch_num .* is 3"):
        accuracy_based_auto_calibration(
            model, Evaluator(10.0, count=1), config, tmp_path / "r.txt", tmp_path / "net"
        )


def test_a_net_is_called_in_several_ways() -> None:
    import onnx_ir as ir

    model, data = network()
    net = Net(ir.from_proto(model))
    by_name = net(data[0])[net.outputs[0]]
    assert np.array_equal(net(*data[0].values()), by_name)
    assert np.array_equal(net.run(None, data[0])[0], by_name)
    with pytest.raises(DataError, match="2 arrays"):
        net(1, 2)
