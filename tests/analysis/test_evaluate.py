from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrant.analysis.evaluate import evaluate
from calibrant.analysis.task_metrics import batch_metric, top_k, top_k_margins
from calibrant.errors import ConfigError, ConfigValueError, DataError, ModelError

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 4] x) => (float[N, 4] scores, float[N, 1] first)
<int64[1] zero = {0}>
{
   scores = Identity(x)
   first = Gather <axis = 1> (x, zero)
}
"""

FIXED_INSIDE = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 4] x) => (float[M, 4] scores)
<int64[2] shape = {1, 4}>
{ given = Shape(x) rows = Min(given, shape) scores = Reshape(x, rows) }
"""


def model(text: str = CLASSIFIER) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def scores(n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((n, 4)).astype(np.float32)


@given(
    n=st.integers(1, 30), k=st.integers(1, 3), classes=st.integers(4, 9), seed=st.integers(0, 999)
)
def test_top_k_equals_the_definition(n: int, k: int, classes: int, seed: int) -> None:
    """Few distinct scores, so that there are ties, as quantized models give."""
    rng = np.random.default_rng(seed)
    x, labels = rng.integers(0, 4, (n, classes)).astype(np.float32), rng.integers(0, classes, n)
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    assert top_k(x, labels, k) == (sum(lb in o for lb, o in zip(labels, order, strict=True)), n)


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_an_answer_changes_where_the_scores_move_by_more_than_the_margin(
    k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(8, 6)), rng.integers(0, 6, 8)
    margins = top_k_margins(x, labels, k)
    for i in range(8):
        right = top_k(x[i : i + 1], labels[i : i + 1], k)[0]
        for share, changes in ((0.99, False), (1.01, True)):
            moved = x[i : i + 1].copy()
            moved[0, labels[i]] += (-1 if right else 1) * share * margins[i]
            assert (top_k(moved, labels[i : i + 1], k)[0] != right) == changes


def test_top1_counts_positions_of_a_segmentation() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((2, 5, 3, 4)), rng.integers(0, 5, (2, 3, 4))
    assert top_k(x, labels, 1) == ((x.argmax(1) == labels).sum(), 24)


def test_top1_takes_flat_scores_and_column_labels() -> None:
    x = np.eye(4)[:, :, None, None]
    assert top_k(x, np.array([[0], [1], [2], [0]]), 1) == (3, 4)


def test_a_model_is_scored_over_all_batches() -> None:
    x = scores(50)
    labels = np.where(np.arange(50) < 30, x.argmax(1), x.argmin(1))
    steps: list[tuple[str, int, int | None]] = []
    result = evaluate(
        model(),
        {"x": x, "labels": labels},
        "top1",
        batch_size=8,
        progress=lambda *a: steps.append(a),
    )
    assert (result.metric, result.value, result.samples) == ("top1", 0.6, 50)
    assert steps == [("evaluate", i, 7) for i in range(1, 8)]
    assert result.seconds > 0


def test_a_reference_named_like_an_output_belongs_to_it() -> None:
    x = scores(9)
    for metric, want in (("mse", 4.0), ("mae", 2.0)):
        data = {"x": x, "first": x[:, 0] + 2, "labels": np.zeros(9, int)}
        assert evaluate(model(), data, metric).value == pytest.approx(want, rel=1e-6)
    assert evaluate(model(), {"x": x, "target": x}, "mse").value == 0


def test_a_users_function_gets_all_outputs_and_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_metric.py").write_text(
        "def share(outputs, references):\n"
        "    assert [o.shape for o in outputs] == [(9, 4), (9, 1)]\n"
        "    return (outputs[0].argmax(1) == references['labels']).mean()\n"
        "def broken(outputs, references):\n    return references['boxes']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    x = scores(9)
    data = {"x": x, "labels": x.argmax(1)}
    assert evaluate(model(), data, "my_metric:share", batch_size=4).value == 1.0
    assert evaluate(model(), data, lambda o, r: len(o) + len(r)).value == 3.0
    with pytest.raises(
        ConfigValueError, match="Metric 'my_metric:broken' failed: KeyError: 'boxes'"
    ):
        evaluate(model(), data, "my_metric:broken")


def test_a_model_that_refuses_batches_is_run_sample_by_sample() -> None:
    x = scores(6)
    data = {"x": x, "labels": x.argmax(1)}
    result = evaluate(model(FIXED_INSIDE), data, "top1")
    assert (result.value, result.samples) == (1.0, 6)
    assert "one by one" in result.notes[0]
    with pytest.raises(ModelError, match="cannot run the model on samples 0 to 2 of the data"):
        evaluate(model(FIXED_INSIDE), data, "top1", batch_size=3)


@pytest.mark.parametrize(
    ("data", "metric", "error", "text"),
    [
        (
            {"labels": np.zeros(3, int)},
            "topp1",
            ConfigError,
            "Unknown metric 'topp1'.*Did you mean 'top1'",
        ),
        ({"labels": np.zeros(3, int)}, "top4", ConfigError, "top4 needs more than 4 classes"),
        (
            {"labels": np.full(3, 4)},
            "top1",
            DataError,
            "labels run from 4 to 4; the output has classes 0 to 3",
        ),
        ({"labels": np.full(3, 0.5)}, "top1", DataError, "whole and from 0"),
        ({"labels": np.zeros((3, 2), int)}, "top1", DataError, "do not fit"),
        ({}, "top1", DataError, "no array 'labels'.*none besides"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "top1", DataError, "it has a, b"),
        ({"scores": np.zeros((3, 5))}, "mse", DataError, r"shapes \(3, 4\) and \(3, 5\) differ"),
        ({}, 3, ConfigError, "metric is a int"),
    ],
)
def test_what_cannot_be_measured_is_explained(
    data: dict[str, Any], metric: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        evaluate(model(), {"x": scores(3), **data}, metric)


def test_an_output_that_is_not_a_number_is_named() -> None:
    log = model(CLASSIFIER.replace("Identity", "Log"))
    data = {"x": -np.ones((3, 4), np.float32), "labels": np.zeros(3, int)}
    with pytest.raises(ModelError, match="Output 'scores' of the model is NaN"):
        evaluate(log, data, "top1")


def test_named_metrics_are_known_to_the_message() -> None:
    with pytest.raises(ConfigValueError, match="Known: top1, top5, mse, mae"):
        batch_metric("accuracy")
