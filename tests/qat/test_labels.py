"""Cross entropy with labels: of samples, of positions, as shares; and what does not fit is told in a sentence."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch.nn import functional as F  # noqa: N812

from calibrant.errors import DataError
from calibrant.qat.labels import Labels, check_labels
from tests.models import NETS


def loss(x, labels, *, probabilities: bool = False) -> float:
    made = Labels(probabilities=probabilities)
    return float(made((x,), (x,), {"labels": labels}))


def test_samples_positions_and_shares():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=g)
    labels = torch.tensor([0, 4, 2, 1])
    wanted = float(F.cross_entropy(x, labels))
    assert loss(x, labels) == wanted
    assert loss(x[:, :, None, None], labels[:, None]) == wanted
    assert loss(x, F.one_hot(labels, 5).float()) == pytest.approx(wanted)
    assert loss(x.softmax(1), labels, probabilities=True) == pytest.approx(wanted, rel=1e-5)
    image = torch.randn(2, 5, 3, 4, generator=g)
    where = torch.randint(0, 5, (2, 3, 4), generator=g)
    pixels = float(F.cross_entropy(image, where))
    assert loss(image, where) == pixels
    assert loss(image.movedim(1, -1), where) == pytest.approx(pixels)
    shares = image.movedim(1, -1).softmax(-1)
    assert loss(shares, where, probabilities=True) == pytest.approx(pixels, rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [
        ((4, 5), [0, 1, 2, 5], r"go from 0 to 5; the first output has 5 classes, 0 to 4"),
        ((4, 5), [0, 1, 2, -1], r"go from -1 to 2"),
        ((4, 1), [0, 0, 0, 0], r"has 1 class"),
        ((4, 5, 3), [0, 1, 2, 3], r"shape \(4,\) do not fit the first output, \(4, 5, 3\)"),
    ],
)
def test_what_does_not_fit_is_told(shape, labels, said):
    with pytest.raises(DataError, match=said):
        loss(torch.zeros(shape), torch.tensor(labels))


def test_labels_are_checked_before_anything_is_begun():
    model = ir.from_proto(NETS["conv_bn_relu"]()[0])
    check_labels({"labels": np.arange(10)}, model)
    for extras, said in (
        ({}, "needs an array 'labels'"),
        ({"labels": np.arange(1, 11)}, "go from 1 to 10"),
        ({"labels": np.array([0.0, np.nan])}, "no number"),
        ({"labels": np.array(["cat"])}, "no number"),
    ):
        with pytest.raises(DataError, match=said):
            check_labels(extras, model)
