"""What layers lose alone: estimated from gradients, beside partial runs that measure each layer on all samples.

    python benchmarks/gradients.py [CASE …]

It needs src/ and the folder of cases (CALIBRANT_CASES), and torch. Scales are chosen once, by `mse`, and their time does not count.
Ranks are Spearman's correlation with losses measured on all 16 samples, and the factor is one standard deviation of their ratio. `within
0.45` are partial runs in the default budget of passes a layer. Times are processor seconds of one thread, for both precisions together.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _common import case_names, load_case, parser, publish, say, table
from scipy.stats import spearmanr

from calibrant.analysis.alone.feeds import Feeds, take_feeds
from calibrant.analysis.alone.journal import Journal
from calibrant.analysis.alone.losses import Losses
from calibrant.analysis.alone.measuring import Question, measure
from calibrant.analysis.alone.metric import ranked_by
from calibrant.analysis.probe import rows_are_free
from calibrant.diagnose.rank import PLAIN, measured_layers, solved_in
from calibrant.progress import Progress
from calibrant.qat.gradients import DRAWS, Measurement, energies_of
from calibrant.runtime.runtime import Runtime
from calibrant.tuning.store import Store

PRECISIONS = ("int8", "int4")
SAMPLES = 16
HEAD = (
    "Case",
    "Layers",
    "Precision",
    "Rank",
    "Off by a factor of",
    "Rank, runs within 0.45",
    "Gradients [s]",
    "All runs [s]",
    "Runs within 0.45 [s]",
)


def partial_runs(one: Measurement, names: Any, feeds: Feeds, budget: float | None) -> np.ndarray:
    """Return the loss of each layer, measured."""
    by = ranked_by("sqnr_db")
    losses = Losses(by)
    question = Question(one.model, one.model, one.reading, names, tuple(one.parts))
    runtime = Runtime("cpu", 1)
    found = measure(
        question,
        feeds,
        by,
        losses.worst,
        budget=budget,
        journal=Journal(None),
        progress=Progress(),
        runtime=runtime,
    )
    loss = losses.all(found)
    return np.array([loss[n].loss for n in names])


def rows_of(name: str) -> list[list[object]]:
    """Return the rows of a case, one a precision."""
    case = load_case(name)
    store = Store(case.model_path, case.calib(), runtime=Runtime("cpu", 1), shared=True)
    solved = [(p, *solved_in(store, PLAIN, p)) for p in PRECISIONS]
    first = solved[0][2].solution
    names = measured_layers(first, None)
    feeds = take_feeds(
        store.samples(solved[0][1]).first(), SAMPLES, free=rows_are_free(first.model)
    )
    asked = [Measurement.of(p, each) for p, _, each, _ in solved]
    spent = []
    start = time.process_time()
    found = energies_of(asked, feeds, names)
    spent.append(time.process_time() - start)
    measured = []
    for budget in (None, 0.45):
        start = time.process_time()
        measured.append([partial_runs(one, names, feeds, budget) for one in asked])
        spent.append(time.process_time() - start)
    rows: list[list[object]] = []
    for i, precision in enumerate(PRECISIONS):
        truth, quick = measured[0][i], measured[1][i]
        mine = np.array([found.lost[precision][n].max() for n in names])
        both = (truth > 0) & (mine > 0)
        factor = 2 ** float(np.std(np.log2(mine[both] / truth[both])))
        row = [name, len(names), precision, f"{spearmanr(truth, mine)[0]:.3f}", f"{factor:.2f}"]
        rows.append([*row, f"{spearmanr(truth, quick)[0]:.3f}", *(f"{s:.1f}" for s in spent)])
        say(" ".join(map(str, rows[-1])))
    return rows


def main() -> None:
    """Measure the cases, and write the table."""
    options = parser(__doc__)
    asked = options.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in case_names(asked.cases) for row in rows_of(name)]
    body = f"{DRAWS} random v for each part of the outputs, {SAMPLES} samples.\n\n{table(HEAD, rows)}\n"
    publish("gradients", "Losses of layers from gradients", body)


if __name__ == "__main__":
    main()
