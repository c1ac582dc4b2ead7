"""A file with a few wrong bytes is quantized or refused in a sentence; nothing else comes of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant.errors import CalibrantError
from tests.models import NETS, Array
from tests.road import batches, quantize


def without_weights(model: onnx.ModelProto) -> tuple[bytes, list[int]]:
    """Return a model's bytes, and the places that are no weights, where damage does most."""
    data = model.SerializeToString()
    inside = np.zeros(len(data), dtype=bool)
    for tensor in model.graph.initializer:
        start = data.index(tensor.raw_data) if len(tensor.raw_data) > 16 else 0
        inside[start : start + len(tensor.raw_data)] = len(tensor.raw_data) > 16
    return data, [int(i) for i in np.flatnonzero(~inside)]


def damaged(data: bytes, places: list[int], rng: np.random.Generator) -> bytes:
    spoiled = bytearray(data)
    for place in rng.choice(places, size=rng.integers(1, 4)):
        spoiled[place] = rng.integers(0, 256)
    return bytes(spoiled)


def outcome(path: Path, data: list[dict[str, Array]]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # weights of 1e38, legally
            quantize(path, data)
    except CalibrantError as error:
        return type(error).__name__ if str(error) else "no message"
    return "quantized"


@pytest.mark.parametrize(
    "name", ["gemm_mlp", "residual", "if_subgraph", "opset9", "attention_add"]
)
def test_wrong_bytes_end_in_a_result_or_in_a_sentence(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, feeds = NETS[name]()
    data, places = without_weights(model)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        path = tmp_path / "m.onnx"
        path.write_bytes(damaged(data, places, rng))
        seen.add(outcome(path, batches(feeds, count=2, size=4)))
    assert "ModelError" in seen
    assert seen <= {
        "quantized",
        "ModelError",
        "DataError",
        "ConfigRuntimeError",
        "UnsupportedError",
    }
    assert "Traceback" not in capfd.readouterr().err
