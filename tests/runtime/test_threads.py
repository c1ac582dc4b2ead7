"""How much work a layer is, and how many threads a model gets for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrant.graph.load import load, prepare
from calibrant.graph.multiplications import work_of_a_layer
from calibrant.runtime import threads
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.threads import MIDDLE, SMALL, with_threads
from tests.models import build, normal


def prepared(graph: str, **weights: tuple[int, ...]) -> ir.Model:
    arrays = {n: np.ones(shape, np.float32) for n, shape in weights.items()}
    model, _ = build(graph, arrays, normal(1))
    return prepare(load(model))


def conv(channels: int, size: int) -> ir.Model:
    shape = f"batch, {channels}, {size}, {size}"
    return prepared(
        f"n (float[{shape}] x) => (float[{shape}] y) {{ y = Conv <pads = [1, 1, 1, 1]> (x, w) }}",
        w=(channels, channels, 3, 3),
    )


def test_the_work_of_a_layer_is_a_multiplication_for_each_output_and_number_that_goes_into_it() -> (
    None
):
    assert work_of_a_layer(conv(4, 8)) == 4 * 8 * 8 * (4 * 9)
    dense = "n (float[b, 6, 5] x) => (float[b, 6, 7] y) { y = MatMul (x, w) }"
    assert work_of_a_layer(prepared(dense, w=(5, 7))) == 6 * 7 * 5
    both = "n (float[b, 5] x) => (float[b, 2] y) { a = Gemm (x, v) y = Gemm <transB = 1> (a, w) }"
    assert work_of_a_layer(prepared(both, v=(5, 8), w=(2, 8))) == (5 * 8 + 8 * 2) / 2
    up = "n (float[b, 3, 4, 4] x) => (float[b, 2, 8, 8] y) { y = ConvTranspose <strides = [2, 2]> (x, w) }"
    assert work_of_a_layer(prepared(up, w=(3, 2, 2, 2))) == 3 * 4 * 4 * (2 * 4)


def test_nothing_is_said_of_work_without_layers_or_shapes() -> None:
    assert (
        work_of_a_layer(prepared("n (float[b, 5] x) => (float[b, 5] y) { y = Relu (x) }")) is None
    )
    open_size = "n (float[b, t, 5] x) => (float[b, t, 7] y) { y = MatMul (x, w) }"
    assert work_of_a_layer(prepared(open_size, w=(5, 7))) is None


@pytest.mark.parametrize(
    ("channels", "size", "one_core", "eight_cores"),
    [(4, 8, 1, 1), (64, 12, 1, 7), (128, 64, None, None)],
)
def test_small_layers_get_one_thread_and_large_ones_what_the_runtime_takes(
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    size: int,
    one_core: int | None,
    eight_cores: int | None,
) -> None:
    model = conv(channels, size)
    work = work_of_a_layer(model)
    assert work is not None
    assert (work >= SMALL, work >= MIDDLE) == (eight_cores != 1, eight_cores is None)
    for cores, asked in ((1, one_core), (8, eight_cores)):
        monkeypatch.setattr(threads, "_cores", lambda cores=cores: cores)
        assert with_threads(CPU, model).threads == asked


def test_a_number_that_is_said_stays_and_so_does_another_provider() -> None:
    model = conv(4, 8)
    for said in (Runtime(threads=3), Runtime("cuda")):
        assert with_threads(said, model) is said
