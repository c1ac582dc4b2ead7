"""Two models are compared by what goes with the pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibrant import debug
from calibrant.errors import ConfigValueError
from calibrant.runtime.measure import run
from tests.debug.nets import calibrated, chain, data_of, samples, without


def test_digits_count_values_that_do_not_agree() -> None:
    x = samples()
    a, b = without(chain(), set()), without(chain(), {"w2__calib"})
    found = debug.compare(a, b, x, 2, mode="consistency")
    y, z = (run(m, [x])[0]["y"] for m in (a, b))
    limit = 10.0**-2
    wrong = int((np.abs(y - z) > limit * (1 + np.abs(y))).sum())
    (row,) = found["outputs"]
    assert row["mismatches"] == wrong
    assert 0 < wrong < row["values"] == 32
    assert row["share"] == wrong / 32
    assert row["max_absolute_error"] == pytest.approx(np.abs(y - z).max(), rel=1e-4)
    assert not found["passed"]
    assert debug.compare(a, b, x, 0, mode="consistency")["passed"]


def test_stages_of_a_run_are_compared_by_what_goes_with_them(tmp_path: Path) -> None:
    result, x = calibrated("residual"), data_of("residual")
    result.save(tmp_path, formats=["horizon"])
    pairs = {
        ("original_float", "optimized_float"): (["float", "float"], "consistency"),
        ("optimized_float", "calibrated"): (["float", "fake-quant"], "cosine"),
        ("calibrated", "quantized"): (["fake-quant", "quantized"], "cosine"),
        ("ptq", "quantized"): (["quantized", "quantized"], "consistency"),
    }
    for (one, other), (kinds, mode) in pairs.items():
        found = debug.compare(
            tmp_path / f"{one}_model.onnx", tmp_path / f"{other}_model.onnx", x, 4
        )
        assert list(found["kinds"]) == kinds
        assert found["mode"] == mode
        assert found["passed"], (one, other)
        assert found["compare_digits"] == 4


def test_five_digits_are_the_default() -> None:
    assert debug.compare(chain(), chain(), samples())["compare_digits"] == 5


def test_other_modes_are_refused() -> None:
    with pytest.raises(ConfigValueError, match="consistency"):
        debug.compare(chain(), chain(), samples(), mode="exact")
    with pytest.raises(ConfigValueError, match="15"):
        debug.compare(chain(), chain(), samples(), 16)
