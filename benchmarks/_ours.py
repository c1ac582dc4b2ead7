"""calibrant as the benchmarks call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What one statistics pass saw.

    Args:
        tensors: Tensors observed.
        values: Values counted, in all of them together.
    """

    tensors: int
    values: int


def statistics_pass(
    model: str | Path, data: Feeds, *, batch_size: int, threads: int
) -> Callable[[], Seen]:
    """Prepare a model and return the pass: open the data, a session, and observe what is planned."""
    from calibrant.data.batch import InputInfo
    from calibrant.data.open import open_data
    from calibrant.graph.load import load, prepare
    from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
    from calibrant.plan import resolve
    from calibrant.recipe import Recipe
    from calibrant.runtime.observe import observe
    from calibrant.runtime.runtime import Runtime

    prepared = prepare(load(model))
    fuse_batchnorm(prepared)
    plan = resolve(Recipe(), prepared)
    rows = [InputInfo(n, (None, *x.shape[1:]), x.dtype) for n, x in data.items()]

    def run() -> Seen:
        batches = open_data(data, rows, batch_size=batch_size)
        stats = observe(prepared, plan.observed_tensors, batches, runtime=Runtime(threads=threads))
        return Seen(len(stats), sum(s.count for s in stats.values()))

    return run


def quantize(
    model: str | Path,
    data: Feeds,
    out: Path,
    *,
    activation: str | None = None,
    target: str = "generic",
    batch_size: int | None = None,
    threads: int | None = None,
    search: bool = True,
) -> Path:
    """Quantize and save; return the path of the deployable model.

    Args:
        model: The float model.
        data: Calibration samples by input name.
        out: Folder for the results; it must not hold results yet.
        activation: One activation algorithm for all tensors; None for the default.
        target: Device profile.
        batch_size: Samples in a batch.
        threads: Threads for inference.
        search: False turns off every pass that tries and measures something.
    """
    from calibrant.pipeline import quantize as run
    from calibrant.recipe import AlgorithmChoice, AllNodes, Calibration, Recipe, Rule, Settings

    rules: tuple[Rule, ...] = ()
    if activation is not None:
        choice = Settings(activation=AlgorithmChoice(activation))
        rules = (Rule(AllNodes(), choice, "benchmark"),)
    recipe = Recipe(rules=rules, target=target, calibration=Calibration(batch_size=batch_size))
    if not search:
        recipe = replace(recipe, equalize="off", bias_correction="off")
    run(model, data, recipe, threads=threads).save(out)
    return out / "deploy.onnx"


def activation_algorithms() -> list[str]:
    """Return the names of all activation algorithms but `fixed`, whose range is an option of the user."""
    from calibrant import algorithms

    return [name for name in algorithms.names()["activation"] if name != "fixed"]
