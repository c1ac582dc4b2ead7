"""Raising sensitive nodes: each step is the quantized model with the worst ones in a higher type."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from calibrant import debug
from calibrant.errors import ConfigValueError
from calibrant.numerics.metrics import METRICS
from calibrant.runtime.measure import run
from tests.debug.nets import ACTIVATIONS, NODES, WEIGHTS, chain, samples, without

EVERY = {*WEIGHTS, *ACTIVATIONS}


def value(on: set[str], metric: str = "mse") -> float:
    x = {"x": samples()["x"]}
    truth = run(without(chain(v1=0.1), set()), [x], optimize=False)[0]["y"]
    mine = run(without(chain(v1=0.1), on), [x], optimize=False, integers=False)[0]["y"]
    return METRICS[metric].measure(truth, mine)


def test_steps_add_up_in_the_order_that_is_given(tmp_path: Path) -> None:
    found = debug.sensitivity_analysis(
        chain(v1=0.1),
        samples(),
        "mse",
        data_num=None,
        sensitive_nodes=["second", "x__calib"],
        save_dir=tmp_path,
    )
    assert list(found) == ["base", "second", "x__calib", "all"]
    assert found["base"] == pytest.approx(value(EVERY), rel=1e-5)
    rest = EVERY - {"a__calib", "w1__calib"}
    assert found["second"] == pytest.approx(value(rest), rel=1e-5)
    assert found["x__calib"] == pytest.approx(value(rest - {"x__calib"}), rel=1e-5)
    assert found["all"] == found["x__calib"]
    lines = (tmp_path / "sensitivity_analysis.csv").read_text().splitlines()
    assert lines[0] == "raised,step,mse,y"
    assert len(lines) == 5
    assert (tmp_path / "sensitivity_analysis.png").read_bytes().startswith(b"\x89PNG")


def test_nodes_are_picked_by_the_threshold_worst_first(tmp_path: Path) -> None:
    alone = debug.get_sensitivity_of_nodes(chain(v1=0.1), samples(), "mse", data_num=4)
    names = list(alone)
    threshold = (
        alone[names[1]]["mse"] + alone[names[2]]["mse"]
    ) / 2  # lower is better: the two worst
    found = debug.sensitivity_analysis(
        chain(v1=0.1), samples(), "mse", threshold, data_num=4, save_dir=tmp_path
    )
    assert list(found) == ["base", *names[:2], "all"]
    assert names[0] == "second"
    assert found["second"] < found["base"] / 4


def test_no_sensitive_node_is_told_with_a_threshold_that_would_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "calibrant"):
        found = debug.sensitivity_analysis(
            chain(), samples(), pick_threshold=0.5, save_dir=tmp_path
        )
    assert list(found) == ["base", "all"]
    assert found["base"] == found["all"]
    said = caplog.messages[0]
    suggested = float(said.split("pick_threshold=")[1].split(" ")[0])
    again = debug.sensitivity_analysis(
        chain(), samples(), pick_threshold=suggested, save_dir=tmp_path
    )
    assert len(again) == 3


@pytest.mark.parametrize("qtype", ["int16", "float16"])
def test_higher_types_are_nearly_float(qtype: str, tmp_path: Path) -> None:
    options = {"data_num": None, "sensitive_nodes": list(NODES), "save_dir": tmp_path}
    model = chain(t=0.05, u=0.05)  # nothing is clipped
    found = debug.sensitivity_analysis(model, samples(), "mse", qtype=qtype, **options)  # type: ignore[arg-type]
    assert 0 < found["all"] < found["base"] / 1000
    plain = debug.sensitivity_analysis(model, samples(), "mse", **options)  # type: ignore[arg-type]
    assert plain["all"] == 0


def test_int16_works_below_the_opset_that_has_it(tmp_path: Path) -> None:
    model = chain(t=0.05, u=0.05)
    model.opset_import[0].version, model.ir_version = 17, 8
    found = debug.sensitivity_analysis(
        model, samples(), "mse", sensitive_nodes=list(NODES), qtype="int16", save_dir=tmp_path
    )
    assert 0 < found["all"] < found["base"] / 1000


def test_outputs_apart(tmp_path: Path) -> None:
    found = debug.sensitivity_analysis(
        chain(), samples(), sensitive_nodes="first", output_separated=True, save_dir=tmp_path
    )
    assert set(found["base"]) == {"y"}


def test_a_threshold_is_asked_for_where_the_default_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigValueError, match="pick_threshold"):
        debug.sensitivity_analysis(chain(), samples(), "sqnr", save_dir=tmp_path)
    with pytest.raises(ConfigValueError, match="int16"):
        debug.sensitivity_analysis(chain(), samples(), qtype="int61", save_dir=tmp_path)
