"""Algorithms are found by name; what is wrong with a request is said in a sentence."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from calibrant import algorithms
from calibrant.algorithms import _registry
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats


def test_names():
    names = algorithms.names()
    required = {"max", "min-max", "percentile", "mse", "ifmr", "hfmg", "kl", "symkl", "jsd"}
    assert required <= set(names["activation"])
    assert {"arq", "mse"} <= set(names["weight"])
    assert names["activation"] == sorted(names["activation"])


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ifrm", {}, ConfigValueError, "algorithm 'ifrm'.* Did you mean 'ifmr'"),
        ("ifmr", {"search_stp": 1}, ConfigValueError, "'search_stp'.* Did you mean 'search_step'"),
        (
            "min-max",
            {"x": 1},
            ConfigValueError,
            "'x' of activation algorithm 'min-max'. It has none",
        ),
        (
            "ifmr",
            {"max_percentile": 0.3},
            ConfigValueError,
            r"is 0.3; it is a number in \(0.5, 1\]",
        ),
        ("ifmr", {"max_percentile": True}, ConfigTypeError, "is True; it is a number"),
        ("ifmr", {"max_percentile": "0.9"}, ConfigTypeError, "is '0.9'; it is a number"),
        ("ifmr", {"search_range": (1.3, 0.7)}, ConfigValueError, "from 1.3 to 0.7"),
        ("ifmr", {"search_range": (0.7,)}, ConfigValueError, "'search_range'"),
        ("ifmr", {"search_step": 0}, ConfigValueError, "'search_step'.* is 0"),
        ("ifmr", {"search_step": 0.7}, ConfigValueError, "step is 0.7"),
        ("ifmr", {"search_step": 1e-9}, ConfigValueError, "step is 1e-09"),
        ("ifmr", {"search_step": float("nan")}, ConfigValueError, "is nan"),
        ("hfmg", {"bins": 1000}, ConfigValueError, "is 1000; it is one of 1024, 2048, 4096, 8192"),
        ("mse", {"steps": 2.5}, ConfigTypeError, r"is 2.5; it is an integer in \[2, 10000\]"),
        ("kl", {"start_ratio": 2.0}, ConfigValueError, "from 2.0 to 1.3"),
        ("kl-merge", {"bins": 512, "max_bins": 300}, ConfigValueError, "max_bins is 300"),
        ("fixed", {"low": 1.0}, ConfigValueError, r"\[1.0, 1.0\]"),
        ("fixed", {"high": float("inf")}, ConfigValueError, "is inf"),
    ],
)
def test_errors(name, options, error, message):
    with pytest.raises(error, match=message):
        algorithms.activation(name, **options)


def test_weight_errors():
    with pytest.raises(ConfigValueError, match=r"weight algorithm 'arc'.* Did you mean 'arq'"):
        algorithms.weight("arc")
    with pytest.raises(ConfigValueError, match="Unknown weight algorithm"):
        algorithms.describe("weight", "ifmr")


def test_lists_count_as_tuples_and_vendor_names_are_known():
    assert algorithms.activation("ifmr", search_range=[0.3, 1.7]) == algorithms.activation(
        "ifmr", search_range=(0.3, 1.7)
    )
    assert algorithms.activation("hfmg", num_of_bins=1024) == algorithms.activation(
        "hfmg", bins=1024
    )


def test_a_new_algorithm_registers_once():
    with mock.patch.dict(_registry._registered["activation"]):

        @algorithms.register_activation("half")
        class Half:
            def __call__(self, stats, spec):
                return QuantParams.from_range(stats.min / 2, stats.max / 2, spec)

        assert "half" in algorithms.names()["activation"]
        params = _registry._registered["activation"]["half"]()(
            TensorStats.of(np.array([-2.0, 2.0])), QuantSpec(symmetric=True)
        )
        assert params.scale == np.float32(1 / 127)
        foreign = type("Half", (), {"__module__": "elsewhere"})
        with pytest.raises(ConfigValueError, match="Two activation algorithms are called 'half'"):
            algorithms.register_activation("half")(foreign)
    assert "half" not in algorithms.names()["activation"]
