"""Layers and evaluations divided among workers: the same figures for any number of them, and a lost worker costs its task alone."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.analysis.alone.feeds import take_feeds
from calibrant.analysis.alone.journal import Journal
from calibrant.analysis.alone.losses import Losses
from calibrant.analysis.alone.measuring import Measured, Question, measure
from calibrant.analysis.alone.metric import ranked_by
from calibrant.analysis.readings import HalfAlone, QuantizedAlone, Reading
from calibrant.analysis.task_metrics import batch_metric
from calibrant.demo import digits
from calibrant.errors import ConfigError
from calibrant.graph.load import load
from calibrant.progress import Progress
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.workers import Processes, Workers
from calibrant.tuner import samples as samples_of
from calibrant.tuner.divided import said_of
from calibrant.tuner.likeness import Likeness
from calibrant.tuner.paired import Paired
from calibrant.tuner.samples import Samples
from calibrant.tuner.scoring import evaluator_of
from calibrant.tuning.bench import Bench
from tests.models import convolution
from tests.models.rescaled import rescaled
from tests.road import batches, quantize


@dataclass
class Copies:
    """Workers of this process that see copies alone, as those of another process do."""

    count: int
    threads: int = 1
    pieces: list[int] = field(default_factory=list)

    def map(
        self, function: Callable[..., Any], pieces: Sequence[Any], shared: Any = None
    ) -> Iterator[Any]:
        self.pieces.append(len(pieces))
        for piece in pieces:
            given = pickle.loads(pickle.dumps((shared, piece)))
            yield pickle.loads(pickle.dumps(function(*given)))


def lost_once(shared: tuple[str, Any, Any], piece: Any) -> Any:
    """Do the work of another function; the first worker ends before it."""
    marker, function, given = shared
    if not Path(marker).exists():
        Path(marker).write_text("lost")
        os._exit(1)
    return function(given, piece)


@dataclass
class Lossy:
    """Two processes, one of which is lost with the first piece of work."""

    marker: str
    real: Processes = field(default_factory=lambda: Processes(2))
    count: int = 2
    threads: int = 1

    def map(
        self, function: Callable[..., Any], pieces: Sequence[Any], shared: Any = None
    ) -> Iterator[Any]:
        return self.real.map(lost_once, pieces, (self.marker, function, shared))


def measured(workers: Workers | None, half: bool = False, **options: Any) -> Measured:
    model, feeds = convolution.residual()
    recipe = Recipe((Rule(AllNodes(), Settings()),), equalize="off")
    bench = Bench(model, batches(feeds))
    solution, probe = bench.solve(recipe), bench.found(recipe).probe
    assert probe is not None
    net = solution.model
    reading: Reading = (
        HalfAlone(net) if half else QuantizedAlone(net, solution.plan, solution.params)
    )
    layers = tuple(d.node for d in solution.plan.layers if d.quantized)
    metric = ranked_by("sqnr_db")
    return measure(
        Question(net, net, reading, layers, probe.scored),
        take_feeds(bench.store.samples(recipe).first(), 16, free=True),
        metric,
        Losses(metric).worst,
        journal=Journal(),
        progress=Progress(),
        runtime=CPU,
        workers=workers,
        **options,
    )


def said(found: Measured) -> tuple[Any, ...]:
    return (
        {n: (f.first, f.all) for n, f in found.layers.items()},
        found.base,
        found.first,
        found.samples,
        found.passes,
        found.node_passes,
    )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("budget", [None, 0.45])
def test_layers_are_measured_the_same_by_copies(half: bool, budget: float | None) -> None:
    alone = said(measured(None, half, budget=budget))
    workers = Copies(3)
    assert said(measured(workers, half, budget=budget)) == alone
    assert sum(workers.pieces) > 1
    assert said(measured(workers, half, budget=budget, memory=1)) == said(
        measured(None, half, budget=budget, memory=1)
    )


@pytest.mark.slow
def test_a_lost_process_changes_no_figure_of_layers(tmp_path: Path) -> None:
    workers = Lossy(str(tmp_path / "lost"))
    assert said(measured(workers, budget=None)) == said(measured(None, budget=None))
    assert (tmp_path / "lost").exists()
    workers.real.close()


def evaluation(workers: Workers | None = None) -> Samples:
    found = digits.evaluation()
    data = {"image": found.image, "labels": found.labels}
    made = Samples(data, load(digits.MODEL), Runtime(), batch_size=16, workers=workers)
    made.open()
    return made


def quantized() -> Any:
    recipe = Recipe((Rule(AllNodes(), Settings(weight_bits=4)),))
    return quantize(digits.MODEL, {"image": digits.calibration().image[:32]}, recipe).deploy


@pytest.mark.parametrize("memory", [2**30, 0])
def test_scores_are_those_of_one_process(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples held in memory, and of such that each worker reads itself."""
    monkeypatch.setattr(samples_of, "MEMORY_BYTES", memory)
    model, ranges = quantized(), [(0, 40), (72, 90), (200, np.inf)]
    workers, metric = Copies(3), batch_metric("top1")
    alone = list(said_of(evaluation(), model, metric, ranges))
    divided = list(said_of(evaluation(workers), model, metric, ranges))
    assert [(s.tolist(), n) for s, n in divided] == [(s.tolist(), n) for s, n in alone]
    assert workers.pieces[0] > 3


def test_an_evaluation_ends_early_at_the_same_sample() -> None:
    model = quantized()
    found = []
    for workers in (None, Copies(1), Copies(4)):
        paired = Paired(evaluation(workers), batch_metric("top1"))
        paired.open()
        seen = paired.run(model, test=paired.certainty(-0.3))
        found.append((seen.values.tolist(), seen.answer, seen.notes))
    assert found[0] == found[1] == found[2]
    assert found[0][1] is False
    assert len(found[0][0]) < len(digits.evaluation().labels)


@pytest.mark.slow
def test_a_lost_process_changes_no_score(tmp_path: Path) -> None:
    model, metric = quantized(), batch_metric("top1")
    alone = list(said_of(evaluation(), model, metric, [(0, np.inf)]))
    workers = Lossy(str(tmp_path / "lost"))
    divided = list(said_of(evaluation(workers), model, metric, [(0, np.inf)]))
    assert [s.tolist() for s, _ in divided] == [s.tolist() for s, _ in alone]
    assert (tmp_path / "lost").exists()
    workers.real.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [{"jobs": 2}, {"ray": "local:2"}])
def test_tune_finds_the_same(how: dict[str, Any]) -> None:
    """A network in which a layer has to be raised, so layers are measured alone."""
    if "ray" in how:
        pytest.importorskip("ray")
    net, feeds = convolution.residual()
    made = rescaled(net, "w1", "w2")
    x = {n: np.concatenate([f[n] for f in batches(feeds)]) for n in batches(feeds)[0]}
    from calibrant.tuner.own_code import Runner

    labels = next(iter(Runner(load(made))(x).values()))
    recipe = Recipe((Rule(AllNodes(), Settings(activation_per_channel=False)),), equalize="off")
    options: dict[str, Any] = {"recipe": recipe, "allow": "int8,int16", "batch_size": 4}
    require = {"max_drop": 1e-4 * float((labels**2).mean())}
    found = []
    for some in ({}, how):
        result = calibrant.tune(
            made, x, ({**x, "labels": labels}, "mse"), require, **options, **some
        )
        told = result.content()
        for key in ("seconds", "reused"):
            told.pop(key, None)
        found.append((told, dict(result.errors), result.result.to_bytes()))
    assert found[0] == found[1]
    assert found[0][1]  # layers were measured alone


@pytest.mark.parametrize("measure", ["sqnr_db", "cosine_similarity"])
def test_outputs_are_compared_the_same_by_copies(measure: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=digits.evaluation().image[:200])
    data = str(tmp_path / "data.npz")
    model = quantize(digits.MODEL, {"image": digits.calibration().image}, Recipe()).deploy
    float_model, reading = load(digits.MODEL), {"batch_size": 16, "preprocess": None}
    workers = Copies(3)
    one = Likeness(float_model, data, measure, CPU, reading).of(model)
    other = Likeness(float_model, data, measure, CPU, reading, workers).of(model)
    assert workers.pieces == [12]
    assert one == other
    assert one[1] == 200


MODULE = """
import numpy as np
from pathlib import Path
from calibrant.demo import digits
def accuracy(runner):
    assert Path("here.txt").exists()
    found = digits.evaluation()
    return runner({"image": found.image})[runner.outputs[0]].argmax(-1) == found.labels
def falls(runner):
    import os
    os._exit(3)
"""


def test_a_function_is_called_by_its_name_in_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scored_in_a_worker.py").write_text(MODULE)
    (tmp_path / "here.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    model, workers = load(digits.MODEL), Copies(2)
    asked = "scored_in_a_worker:accuracy"
    alone = evaluator_of(asked, model, None).score(model)
    found = evaluator_of(asked, model, None, workers=workers).score(model)
    assert workers.pieces == [1]
    assert found == alone
    assert found.each is not None


@pytest.mark.slow
def test_a_function_that_ends_its_process_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "falls_in_a_worker.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    model = load(digits.MODEL)
    evaluator = evaluator_of("falls_in_a_worker:falls", model, None, workers=Processes(2))
    with pytest.raises(ConfigError, match="Worker processes ended"):
        evaluator.score(model)
