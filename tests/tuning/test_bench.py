"""The bench: recipes are solved and scored, and nothing is run twice."""

from __future__ import annotations

import numpy as np
import pytest

import calibrant
from calibrant import Bench
from calibrant.errors import ConfigValueError
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, Recipe, Rule, Settings
from calibrant.solution import build
from tests.models import NETS
from tests.road import batches, outputs, quantize, sqnr_db


def bench(name: str = "residual", **options: object) -> Bench:
    model, feeds = NETS[name]()
    return Bench(model, batches(feeds), **options)  # type: ignore[arg-type]


def wide(layer: str) -> Recipe:
    return Recipe(rules=(Rule(Layer(layer), Settings.of_precision("int16"), layer),))


def test_a_solution_is_what_quantize_writes() -> None:
    model, feeds = NETS["residual"]()
    recipe = Recipe(rules=(Rule(AllNodes(), Settings(activation=AlgorithmChoice("kl"))),))
    solution = Bench(model, batches(feeds)).solve(recipe)
    result = quantize(model, batches(feeds), recipe)
    feed = feeds(batch=4, seed=9)
    for a, b in zip(
        outputs(build(solution).deploy, feed), outputs(result.deploy, feed), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_an_equal_recipe_runs_nothing_again() -> None:
    b = bench()
    first = b.solve()
    score = b.score(first)
    done = b.work.samples
    assert done > 0
    assert b.solve(Recipe(rules=(Rule(AllNodes(), Settings(), "elsewhere"),))) is not first
    assert b.solve() is first
    assert b.score(first) is score
    places = [Recipe(rules=(Rule(AllNodes(), Settings(weight_bits=8), where),)) for where in "ab"]
    before = b.solve(places[0])
    after = b.work.samples
    assert b.solve(places[1]) is before
    assert b.work.samples == after


def test_recipes_that_differ_in_widths_share_what_they_leave_open() -> None:
    b = bench()
    base = b.solve()
    probe = b.work.probe
    layers = [d.node for d in base.plan.layers if d.quantized]
    assert len(layers) >= 3
    before = b.work.samples
    found = [b.score(b.solve(wide(layer))).db for layer in layers]
    each = (b.work.samples - before) / probe / len(layers)
    assert each <= 3
    assert max(found) >= b.score(base).db - 0.5
    assert len(set(found)) > 1


def test_a_score_has_all_parts_and_the_metric_that_is_asked_for() -> None:
    b = bench("residual", evaluate=lambda path: 0.5 if path.endswith(".onnx") else 0.0)
    score = b.score(b.solve())
    assert score.metric == 0.5
    assert set(score.parts) == {"y"}
    assert score.db == pytest.approx(np.mean(list(score.parts.values())))
    other = bench()
    assert other.score(b.solve()).metric is None  # the same model, from another bench
    with pytest.raises(ConfigValueError, match="another model"):
        other.score(bench("gemm_mlp").solve())


def test_passes_are_counted_in_passes_of_the_probe() -> None:
    b = bench()
    assert b.work.passes == 0
    choices = Settings(activation=AlgorithmChoice("max"), weight=AlgorithmChoice("arq"))
    fixed = Recipe(
        rules=(Rule(AllNodes(), choices),),
        equalize="off",
        bias_correction="off",
    )
    solution = b.solve(fixed)
    assert b.work.passes == pytest.approx(
        1 + 32 / b.work.probe
    )  # the float answers, and the statistics
    b.score(solution)
    assert b.work.passes == pytest.approx(2 + 32 / b.work.probe)


def test_a_score_agrees_with_the_deployed_model() -> None:
    model, feeds = NETS["residual"]()
    data = batches(feeds)
    b = Bench(model, data)
    solution = b.solve()
    signal = [o for feed in data for o in outputs(model, feed)]
    found = [o for feed in data for o in outputs(build(solution).deploy, feed, optimize=False)]
    assert b.score(solution).db == pytest.approx(sqnr_db(signal, found), abs=1.0)


def test_it_is_public() -> None:
    assert calibrant.Bench is Bench


@pytest.mark.parametrize("name", ["residual", "conv_bn_relu", "gemm_mlp"])
@pytest.mark.parametrize("layers", [1, None], ids=["one layer", "all layers"])
def test_float16_computes_in_float16_on_a_bench_too(name: str, layers: int | None) -> None:
    b = bench(name)
    named = [d.node for d in b.solve().plan.layers if d.quantized][:layers]
    half = Settings.of_precision("float16")
    rules = [Rule(Layer(n), half, n) for n in named]
    if layers is None:
        rules = [Rule(AllNodes(), half, "all")]
    solution = b.solve(Recipe(rules=tuple(rules)))
    assert set(named) <= set(solution.plan.half)
    deploy = build(solution).deploy
    casts = [n for n in deploy.graph if n.op_type == "Cast"]
    assert {int(n.attributes["to"].as_int()) for n in casts} >= {
        1,
        10,
    }  # to float32 and to float16
    feed = NETS[name]()[1](batch=4, seed=9)
    floats, halves = outputs(solution.original, feed), outputs(deploy, feed)
    assert not all(np.array_equal(a, b) for a, b in zip(floats, halves, strict=True))
    assert all(sqnr_db(a, b) > 20 for a, b in zip(floats, halves, strict=True))
    again = calibrant.quantize_from_record(NETS[name]()[0], solution.record)
    for x, y in zip(halves, outputs(again.deploy, feed), strict=True):
        np.testing.assert_array_equal(x, y)
