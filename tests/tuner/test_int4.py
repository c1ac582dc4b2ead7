"""int4 weights and `ec` among the precisions that layers may have."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.errors import ConfigValueError
from calibrant.tuner import TuningResult
from calibrant.tuning.cheapest import cheapest
from calibrant.tuning.menu import Menu


@cache
def tuned() -> TuningResult:
    found = digits.evaluation()
    labelled = {"image": found.image, "labels": found.labels}
    return calibrant.tune(
        digits.MODEL,
        {"image": digits.calibration().image[:48]},
        (labelled, "top1"),
        "max-drop 1%",
        allow="int4,int8,float32",
        moves="none",
    )


@pytest.mark.slow
def test_int4_is_taken_where_the_requirement_permits_and_is_in_the_deployed_file() -> None:
    result = tuned()
    assert result.met
    four = {n for n, p in result.precisions.items() if p == "int4"}
    assert four
    assert result.cost < result.costs["int8"]
    deployed = onnx.load_from_string(result.result.to_bytes())
    narrow = [t for t in deployed.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert sum(len(t.dims) > 1 for t in narrow) == len(four)  # beside them their zero points


@pytest.mark.slow
def test_layers_without_such_a_thing_do_not_have_it() -> None:
    menu = tuned().menu
    column = menu.precisions.index("int4")
    weighted = {w.layer for w in tuned().result.plan.weights}
    for layer, cost in zip(menu.layers, menu.cost[:, column], strict=True):
        assert np.isfinite(cost) == (layer in weighted)


def test_a_wide_reader_pays_for_the_grid_of_narrow_feeders_alone() -> None:
    menu = Menu(
        ("feeder", "reader"),
        ("int4", "int8", "int16"),
        np.array([[4.0, 8.0, 16.0]] * 2),
        feeds=((0, 1),),
        narrow=2,
    )
    errors = np.array([[0.3, 0.1, 0.0], [0.5, 0.2, 0.0]])
    assert menu.errors_of(errors, ("int4", "int16")).tolist() == pytest.approx([0.3, 0.2])
    assert menu.errors_of(errors, ("int4", "int8")).tolist() == pytest.approx([0.3, 0.2])
    assert menu.errors_of(errors, ("int16", "int16")).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(8))
def test_the_cheapest_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ("int4", "int8", "int16")
    menu = Menu(
        ("a", "b", "c", "d"),
        names,
        rng.uniform(1, 3, (4, 1)) * np.array([4.0, 8.0, 16.0]),
        feeds=((0, 1), (1, 2), (0, 3)),
        borders=((0, 1, 5.0), (2, 3, 3.0)),
        narrow=2,
    )
    errors = np.sort(rng.uniform(0, 1, (4, 3)), axis=1)[:, ::-1].copy()
    budget = float(errors.sum() / 3)
    every = itertools.product(names, repeat=4)
    fits = [a for a in every if menu.errors_of(errors, a).sum() <= budget]
    found = cheapest(menu, errors, budget)
    assert found is not None
    assert menu.cost_of(found) == pytest.approx(min(menu.cost_of(a) for a in fits))
    assert menu.errors_of(errors, found).sum() <= budget * (1 + 1e-6)


@pytest.mark.slow
def test_ec_stands_where_int8_is_not_enough_and_nothing_wider_is_allowed() -> None:
    result = calibrant.tune(
        digits.MODEL,
        {"image": digits.calibration().image[:24]},
        None,
        "min 1.0",
        allow="int8,ec",
        moves="none",
        max_trials=3,
    )
    assert "ec" in result.precisions.values()


def test_what_a_target_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigValueError, match="no weights of 4 bits"):
        calibrant.tune(digits.MODEL, None, target="int8-only", allow="int4,int8")


def test_what_has_no_kernels_is_not_timed() -> None:
    with pytest.raises(ConfigValueError, match="cannot be timed"):
        calibrant.tune(digits.MODEL, None, allow="int4,int8", cost="latency")
