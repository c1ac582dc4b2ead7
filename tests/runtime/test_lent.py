"""Weights that are lent to a session: it computes what it computes with weights of its own."""

from __future__ import annotations

import gc
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from calibrant.graph.load import load
from calibrant.runtime import lent, session
from calibrant.runtime.measure import run
from calibrant.runtime.tap import expose


def model() -> ir.Model:
    """Return a network with a large weight, one that only a branch reads, and a layer behind them."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[n, 64] x, bool flag) => (float[n, 64] y, float[n, 64] z)
        {
            a = MatMul(x, first)
            b = If (flag) <
                then_branch = yes () => (float[n, 64] c) { c = MatMul(a, second) },
                else_branch = no () => (float[n, 64] d) { d = Identity(a) }
            >
            y = Relu(b)
            z = MatMul(y, last)
        }
    """
    made = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name in ("first", "second", "last"):
        weight = rng.normal(0, 0.1, (64, 64)).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return load(made)


def feeds(*, flag: bool) -> dict[str, npt.NDArray[np.generic]]:
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    return {"x": x, "flag": np.array(flag)}


@pytest.mark.parametrize("flag", [True, False])
def test_what_is_computed_is_the_same(monkeypatch: pytest.MonkeyPatch, *, flag: bool) -> None:
    made = model()
    (whole,) = run(made, [feeds(flag=flag)])
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    with lent.lend(made) as given:
        assert set(given.weights) == {"first", "second", "last"}
    (found,) = run(made, [feeds(flag=flag)])
    assert all(np.array_equal(whole[n], found[n]) for n in whole)


def opened_with(
    monkeypatch: pytest.MonkeyPatch, *, spinning: bool
) -> tuple[ort.InferenceSession, dict[str, npt.NDArray[np.float32]]]:
    """Return a session, and the arrays that it was lent."""
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    made = model()
    with lent.lend(made) as given:
        weights = {n: w.copy() for n, w in given.weights.items()}
        monkeypatch.setattr(session, "lend", lambda _: nullcontext(lent.Lent(weights)))
        monkeypatch.setattr(session, "_whole", lambda m: m)  # nothing lies in files
        return session.open_session(made, spinning=spinning), weights


@pytest.mark.parametrize("spinning", [False, True])
def test_only_a_session_that_packs_no_weights_computes_with_the_arrays_themselves(
    monkeypatch: pytest.MonkeyPatch, *, spinning: bool
) -> None:
    opened, weights = opened_with(monkeypatch, spinning=spinning)
    x = feeds(flag=True)
    before = session.infer(opened, ["y", "z"], x)
    assert np.abs(before[0]).max() > 0
    weights["last"] *= 2
    after = session.infer(opened, ["y", "z"], x)
    assert np.array_equal(after[0], before[0])
    assert np.array_equal(after[1], before[1] if spinning else 2 * before[1])


def test_a_session_keeps_what_it_was_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, weights = opened_with(monkeypatch, spinning=False)
    x = feeds(flag=True)
    before = session.infer(opened, ["y", "z"], x)
    sizes = [w.shape for w in weights.values()]
    weights.clear()
    gc.collect()
    others = [np.full(shape, 7, np.float32) for shape in sizes * 20]  # in memory that was free
    after = session.infer(opened, ["y", "z"], x)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(others) == 60


def test_a_weight_that_no_output_needs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    inner = expose(model(), ["y"])
    with lent.lend(inner) as given:
        assert set(given.weights) == {"first", "second"}
    assert set(run(inner, [feeds(flag=True)])[0]) == {"y"}


def test_the_model_itself_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    made = model()
    before = bytes(ir.to_proto(made).SerializeToString(deterministic=True))
    with lent.lend(made):
        assert len(ir.to_proto(made).SerializeToString()) < len(before) / 4
    assert bytes(ir.to_proto(made).SerializeToString(deterministic=True)) == before
    with pytest.raises(KeyboardInterrupt), lent.lend(made):
        raise KeyboardInterrupt
    assert bytes(ir.to_proto(made).SerializeToString(deterministic=True)) == before


def test_small_models_are_written_whole() -> None:
    made = model()
    with lent.lend(made) as given:
        assert not given.weights
    assert isinstance(session.in_one_piece(made), bytes)
