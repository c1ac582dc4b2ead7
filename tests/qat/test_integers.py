"""With integer sums the trained module and the deployed file are equal, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.demo.digits import MODEL, calibration, evaluation
from calibrant.errors import ConfigValueError
from calibrant.qat import prepare
from calibrant.qat.integers import integer_outputs
from tests.qat.test_trainable import retrain, steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activations", "weights"), [("INT8", "INT8"), ("INT8", "INT4"), ("INT4", "INT4")]
)
def test_integers_are_equal_bit_for_bit(activations, weights):
    qat = prepare(MODEL, {"image": calibration().image}, retrain(activations, weights))
    steps(qat)
    result = qat.convert(check="integers")
    said = result.summary["training"]["agreement"]
    assert said["integers_db"] > 100
    assert said["integers_top1"] == 1
    feeds = [{"image": evaluation().image[:200]}]
    theirs, layers = integer_outputs(result.deploy, feeds)
    assert layers == len(qat.solution.plan.weights) == 10
    mine = qat.integers(feeds)
    for name, x in theirs[0].items():
        np.testing.assert_array_equal(mine[0][name], x)
    with pytest.raises(ConfigValueError, match="check is 'integer'"):
        qat.convert(check="integer")
