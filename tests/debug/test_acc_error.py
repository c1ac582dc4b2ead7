"""Curves of accumulated error are those of whole models, node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant import debug
from calibrant.debug.acc_error import Curves, averaged
from calibrant.errors import ConfigValueError, MissingPackageError
from calibrant.numerics.metrics import METRICS
from calibrant.runtime.measure import run
from tests.debug.nets import ACTIVATIONS, WEIGHTS, chain, samples, without


def tensors(model: Any) -> dict[str, Any]:
    """Run a model and return what its three products give."""
    for name in ("first", "second"):
        model.graph.outputs.append(model.graph.node(name).outputs[0])
    out = run(model, [samples()], optimize=False, integers=False)[0]
    return {"first": out["a"], "second": out["b"], "third": out["y"]}


def curve(on: set[str], metric: str = "cosine-similarity") -> list[float]:
    truth, mine = tensors(without(chain(), set())), tensors(without(chain(), on))
    return [
        float(
            np.mean(
                [METRICS[metric].measure(a, b) for a, b in zip(truth[n], mine[n], strict=True)]
            )
        )
        for n in truth
    ]


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    found = debug.plot_acc_error(chain(), samples(), ["weight", "activation"], save_dir=tmp_path)
    assert list(found) == ["weight", "activation", "all"]
    assert list(found["weight"]) == ["first", "second", "third"]
    assert list(found["weight"].values()) == pytest.approx(curve(set(WEIGHTS)), rel=1e-9)
    assert list(found["activation"].values()) == pytest.approx(curve(set(ACTIVATIONS)), rel=1e-9)
    assert list(found["all"].values()) == pytest.approx(curve({*WEIGHTS, *ACTIVATIONS}), rel=1e-9)


def test_a_flat_list_is_a_curve_for_each_and_a_nested_one_for_each_list(tmp_path: Path) -> None:
    found = debug.plot_acc_error(
        chain(),
        samples(),
        ["second", ["first", "b__calib"], ["w0__calib"]],
        metric="mse",
        save_dir=tmp_path,
    )
    assert list(found) == ["second", "partial_qmodel_0", "partial_qmodel_1", "all"]
    assert list(found["second"].values()) == pytest.approx(curve({"a__calib", "w1__calib"}, "mse"))
    together = {"x__calib", "w0__calib", "b__calib"}
    assert list(found["partial_qmodel_0"].values()) == pytest.approx(curve(together, "mse"))
    assert found["second"]["first"] == 0  # nothing before it is quantized


def test_all_but_one(tmp_path: Path) -> None:
    found = debug.plot_acc_error(
        chain(), samples(), non_quantize_node=["first"], metric="mse", save_dir=tmp_path
    )
    every = {*WEIGHTS, *ACTIVATIONS} - {"x__calib", "w0__calib"}
    assert list(found["first"].values()) == pytest.approx(curve(every, "mse"))


def test_average_mode_is_the_running_mean(tmp_path: Path) -> None:
    assert averaged([1.0, 0.9, 0.9, 0.8]) == pytest.approx([1.0, 0.95, 2.8 / 3, 0.9])
    plain = debug.plot_acc_error(chain(), samples(), "weight", metric="mse", save_dir=tmp_path)
    mean = debug.plot_acc_error(
        chain(), samples(), "weight", metric="mse", average_mode=True, save_dir=tmp_path
    )
    values = list(plain["weight"].values())
    assert list(mean["weight"].values()) == pytest.approx(
        [np.mean(values[: i + 1]) for i in range(3)]
    )


def test_steps_are_where_one_node_loses_more_than_a_hundredth() -> None:
    found = Curves(METRICS["cosine-similarity"], ("a", "b", "c"), {"x": [1.0, 0.995, 0.98]}, 1)
    assert found.steps("x") == [2]
    found = Curves(METRICS["mse"], ("a", "b", "c"), {"x": [0.0, 0.001, 1.0]}, 1)
    assert found.steps("x") == [2]


def test_pictures_tables_and_pages_are_written(tmp_path: Path) -> None:
    debug.plot_acc_error(chain(), samples(), ["weight"], save_dir=tmp_path / "new")
    names = {p.name for p in (tmp_path / "new").iterdir()}
    assert names == {f"accumulate_error.{e}" for e in ("png", "csv", "html")} | {"plotly.min.js"}
    assert (tmp_path / "new" / "accumulate_error.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "new" / "accumulate_error.html").read_text()
    assert "second" in page
    assert 'src="https' not in page
    lines = (tmp_path / "new" / "accumulate_error.csv").read_text().splitlines()
    assert lines[0] == "node,weight,all"
    assert len(lines) == 4


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "Neither"),
    ({"non_quantize_node": "weight"}, "kind"),
    ({"non_quantize_node": ["activation"]}, "kind"),
    ({"quantize_node": ["frst"]}, "first"),
    ({"quantize_node": []}, "empty"),
    ({"quantize_node": "weight", "metric": "mes"}, "mse"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_what_makes_no_curve_is_told(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as error:
        debug.plot_acc_error(chain(), samples(), **options, save_dir=tmp_path)
    assert isinstance(error.value, ConfigValueError)


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r'pip install "calibrant\[debug\]"'):
        debug.plot_acc_error(chain(), samples(), "weight", save_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rankings_need_no_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert debug.get_sensitivity_of_nodes(chain(), samples(), save_dir=tmp_path)
