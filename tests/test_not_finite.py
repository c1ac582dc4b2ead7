"""Networks that hold NaN or infinity inside and give finite outputs are quantized; others are refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import calibrant
from calibrant.errors import DataError
from calibrant.graph.load import load, prepare
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    Layer,
    Promotion,
    Recipe,
    Rule,
    Search,
    Settings,
)
from calibrant.results import QuantizedModel
from calibrant.tuning import extent
from tests.models import Array, Feeds, Model, Weights, build, normal
from tests.road import outputs, quantize, sqnr_db

WIDTH, LENGTH = 16, 6


def attention(*, clean: bool = True, lowest: float = -np.inf) -> Model:
    """Attention with masked keys; rows that are masked altogether are 0 / 0 and are cleaned before the output."""
    w = Weights(3)
    weights: dict[str, Array] = {n: w.dense(WIDTH, WIDTH) for n in ("wq", "wk", "wv", "wo")}
    weights |= {
        "bo": w.vector(WIDTH),
        "lowest": np.array(lowest, np.float32),
        "zero": np.array(0, np.float32),
    }
    weights |= {"one": np.array([1]), "two": np.array([2]), "all": np.array([True])}
    output = "rows" if clean else "all"
    return build(
        f"""net (float[N,6,16] x, bool[N,6] mask) => (float[N,6,16] y) {{
            q = MatMul (x, wq)
            k = MatMul (x, wk)
            v = MatMul (x, wv)
            kt = Transpose <perm = [0,2,1]> (k)
            s = MatMul (q, kt)
            columns = Unsqueeze (mask, one)
            rows = Unsqueeze (mask, two)
            seen = And (columns, rows)
            masked = Where (seen, s, lowest)
            attention = Softmax (masked)
            context = MatMul (attention, v)
            product = MatMul (context, wo)
            out = Add (product, bo)
            sum = Add (out, x)
            y = Where ({output}, sum, zero)
        }}""",
        weights,
        sequences,
    )


def sequences(batch: int = 16, seed: int = 0, *, shortest: int = 2) -> dict[str, Array]:
    """Sequences of `shortest` to 6 steps; the rest of each is masked."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, LENGTH + 1, (batch, 1))
    x = rng.normal(size=(batch, LENGTH, WIDTH)).astype(np.float32)
    return {"x": x, "mask": np.arange(LENGTH) < lengths}


def data(feeds: Feeds = sequences, count: int = 4) -> list[dict[str, Array]]:
    return [feeds(seed=k) for k in range(count)]


def quality(model: Model, result: QuantizedModel) -> float:
    feed = sequences(seed=99)
    wanted = outputs(model[0], feed)[0]
    assert np.isfinite(wanted).all()
    return sqnr_db(wanted, outputs(result.deploy, feed, optimize=False)[0])


def adaptive(name: str) -> Recipe:
    """Return a recipe that makes one pass of refinement look at what is not finite."""
    candidates = tuple(Settings(activation=AlgorithmChoice(n)) for n in ("min-max", "mse"))
    searched = (Rule(AllNodes(), Settings(candidates=candidates)),)
    project = Layer("product")
    return {
        "defaults": Recipe(),
        "correction": Recipe(bias_correction="on"),
        "rules": Recipe(rules=(Rule(AllNodes(), Settings(bias_samples=8)),)),
        "learned": Recipe(rules=(Rule(project, Settings(weight=AlgorithmChoice("ada"))),)),
        "levels": Recipe(
            rules=(
                Rule(
                    project,
                    Settings(weight=AlgorithmChoice.of("nuq", {"levels": 16, "rounds": 1})),
                ),
            )
        ),
        "promotion": Recipe(promote=Promotion(count=1)),
        "search": Recipe(rules=searched, search=Search(samples=8)),
        "layers": Recipe(rules=searched, search=Search(samples=4, scope="layer")),
        "balance": Recipe(rules=(Rule(project, Settings(balance=0.5)),)),
        "channels": Recipe(
            rules=(
                Rule(
                    project,
                    Settings(activation_per_channel=True, activation=AlgorithmChoice("max")),
                ),
            )
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "defaults",
        "correction",
        "rules",
        "learned",
        "levels",
        "promotion",
        "search",
        "layers",
        "balance",
        "channels",
    ],
)
def test_rows_that_are_masked_altogether_are_left_out(name: str) -> None:
    model = attention()
    result = quantize(model[0], data(), adaptive(name), per_node=True)
    assert quality(model, result) > 20
    ((tensor, found),) = result.summary["data"]["not_finite"].items()
    assert tensor == ("product__balance_output" if name == "balance" else "context")
    empty = sum(int((~feed["mask"]).sum()) for feed in data())
    assert found == empty * WIDTH
    (note,) = [n for n in result.summary["data"]["notes"] if "not finite" in n]
    assert f"'{tensor}' holds {found} values that are not finite" in note
    for weight in result.params.layers.values():
        assert weight.bias is None or np.isfinite(weight.bias).all()
    assert all(n["cosine"] is None or n["cosine"] > 0.5 for n in result.summary["nodes"])


def test_what_is_left_out_changes_nothing_else() -> None:
    """The scales are those of the same network where such rows are computed from other values."""
    with_gaps, without = (
        quantize(attention(lowest=low)[0], data(), Recipe(equalize="off", bias_correction="off"))
        for low in (-np.inf, -1e30)
    )
    a, b = (r.statistics["context"] for r in (with_gaps, without))
    assert (a.nonfinite > 0, b.nonfinite) == (True, 0)
    assert a.count < b.count
    for name in ("x", "q", "k", "v"):
        if name in with_gaps.statistics:
            assert with_gaps.statistics[name] == without.statistics[name]


def test_a_sample_behind_the_first_ones_may_hold_them() -> None:
    model = attention()
    whole = [sequences(seed=k, shortest=LENGTH) for k in range(6)]
    result = quantize(model[0], [*whole, sequences(seed=7)])
    assert result.summary["data"]["not_finite"]["context"] > 0
    assert quality(model, result) > 20
    clean = quantize(model[0], whole)
    assert clean.summary["data"]["not_finite"] == {}
    assert not any("not finite" in n for n in clean.summary["data"]["notes"])


def test_infinity_inside_is_left_out_as_well() -> None:
    """The logarithm of a count that may be 0, and a Sigmoid at the end."""

    def counts(batch: int = 8, seed: int = 0) -> dict[str, Array]:
        return {"x": np.random.default_rng(seed).integers(0, 40, (batch, 8)).astype(np.float32)}

    model = build(
        """net (float[N,8] x) => (float[N,4] y) {
            large = Log (x)
            product = MatMul (large, w)
            y = Sigmoid (product)
        }""",
        {"w": np.abs(Weights(1).dense(8, 4)) / 8},
        counts,
    )
    given = [counts(seed=k) for k in range(4)]
    result = quantize(model[0], given)
    zeros = sum(int((feed["x"] == 0).sum()) for feed in given)
    assert result.summary["data"]["not_finite"] == {"large": zeros}
    seen = result.statistics["large"]
    assert seen.min == 0
    assert seen.max == pytest.approx(np.log(39))
    (d,) = [d for d in result.plan.activations if d.tensor == "large"]
    low, high = result.params.activations[d.id].range
    assert -0.1 <= low <= 0
    assert high == pytest.approx(np.log(39), rel=0.1)


def test_a_tensor_without_one_finite_value_is_no_obstacle() -> None:
    """An input is divided by zero throughout, and what comes of it is replaced."""
    model = build(
        """net (float[N,8] x) => (float[N,4] y) {
            none = Mul (x, infinite)
            product = MatMul (none, w)
            known = MatMul (x, w)
            bad = IsNaN (product)
            whole = Where (yes, known, product)
            y = Relu (whole)
        }""",
        {"w": Weights(1).dense(8, 4), "infinite": np.float32(np.inf), "yes": np.array([True])},
        lambda batch=8, seed=0: {
            "x": np.random.default_rng(seed).normal(size=(batch, 8)).astype(np.float32)
        },
    )
    result = quantize(model[0], [model[1](seed=k) for k in range(4)])
    assert result.summary["data"]["not_finite"]["none"] == 4 * 8 * 8
    feed = model[1](seed=9)
    got = outputs(result.deploy, feed, optimize=False)[0]
    assert sqnr_db(outputs(model[0], feed)[0], got) > 25


@pytest.mark.parametrize("late", [0, 6])
def test_outputs_that_are_not_finite_are_refused_with_their_sample(late: int) -> None:
    model = attention(clean=False)
    whole = [sequences(seed=k, shortest=LENGTH) for k in range(late)]
    short = sequences(seed=7, shortest=1)
    first = late * 16 + int(np.flatnonzero(~short["mask"].all(axis=1))[0])

    def stream() -> Iterator[dict[str, Array]]:
        yield from [*whole, short]

    with pytest.raises(DataError) as refused:
        quantize(model[0], stream)
    message = str(refused.value)
    assert "'y'" in message
    if late:
        assert f"sample {first} of" in message
        assert "'context' holds nan" in message


def test_counts_of_parts_of_the_data_add_up() -> None:
    model = attention()[0]
    parts = [calibrant.observe(model, [feed]) for feed in data()]
    whole = calibrant.observe(model, data())
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged["context"] == whole["context"]
    assert whole["context"].nonfinite > 0


def test_a_mask_that_is_a_constant_is_prepared_as_before() -> None:
    prepared = prepare(load(attention()[0]))
    assert np.isneginf(prepared.graph.initializers["lowest"].const_value.numpy())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["correction", "rules", "learned", "levels"])
def test_a_layer_without_one_finite_output_keeps_its_weight_and_bias(name: str) -> None:
    """Every row of a layer is masked, in all samples."""

    def masked(batch: int = 16, seed: int = 0) -> dict[str, Array]:
        return sequences(batch, seed) | {"mask": np.zeros((batch, LENGTH), np.bool_)}

    model = attention()
    result = quantize(model[0], [masked(seed=k) for k in range(4)], adaptive(name))
    layer = result.params.layers["product"]
    assert np.isfinite(layer.weight.scale).all()
    assert layer.bias is None or np.isfinite(layer.bias).all()
    assert not outputs(result.deploy, masked(seed=9))[0].any()


@pytest.mark.parametrize("equalize", ["off", "on"])
def test_an_output_that_is_no_number_is_found_though_few_samples_are_compared(
    monkeypatch: pytest.MonkeyPatch, equalize: str
) -> None:
    """Nothing that is quantized shows it, and options are compared on the first 16 of 64 samples."""
    monkeypatch.setattr(extent, "SCORE_VALUES", 1)
    some = Weights(0)
    weights = {"w": np.abs(some.dense(8, 8)), "v": np.abs(some.dense(8, 4))}
    model, feeds = build(
        """net (float[N,8] x) => (float[N,4] y) {
            h = MatMul (x, w) r = Relu (h) m = MatMul (r, v) y = Sqrt (m)
        }""",
        weights,
        normal(8),
    )
    feed = {"x": np.abs(feeds(batch=64)["x"])}
    recipe = Recipe(equalize=equalize)  # type: ignore[arg-type]
    assert quantize(model, dict(feed), recipe).summary["data"]["samples"] == 64
    spoiled = build(
        """net (float[N,8] x, float[N,4] z) => (float[N,4] y) {
            h = MatMul (x, w) r = Relu (h) m = MatMul (r, v) n = Mul (m, z) y = Sqrt (n)
        }""",
        weights,
        normal(8),
    )[0]
    z = np.ones((64, 4), np.float32)
    z[50] = -1
    with pytest.raises(DataError, match=r"'y' holds NaN for"):
        quantize(spoiled, {**feed, "z": z}, recipe)
