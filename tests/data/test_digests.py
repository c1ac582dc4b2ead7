"""Digests of data: equal for equal samples alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant.data.digests import data_digest

UNLIKE: list[tuple[Any, Any]] = [
    ({"t": ["ja", "b"]}, {"t": ["nein", "c"]}),
    ([1, 11], [11, 1]),
    ({"a": [1, 2]}, {"a": [12]}),
    ([[1], [2]], [[1, 2]]),
    (lambda: [np.zeros(2)], lambda: [np.ones(2)]),
    (lambda: iter([{"x": np.zeros(2)}]), lambda: iter([{"x": np.ones(2)}])),
]


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_unlike_data_has_unlike_digests(one: Any, other: Any) -> None:
    assert data_digest(one) != data_digest(other)
    assert data_digest(one) == data_digest(one)


def test_files_are_what_they_hold(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.full(3, value))
    a, b, c = (data_digest(tmp_path / n) for n in "abc")
    assert a == b != c
    assert data_digest(str(tmp_path / "a" / "x.npy")) == data_digest(tmp_path / "b" / "x.npy")


def test_a_tensor_with_a_gradient_is_its_values() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.ones(3, requires_grad=True)
    assert data_digest(x) == data_digest(x.detach().numpy())
