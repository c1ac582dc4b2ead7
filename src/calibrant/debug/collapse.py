"""Find the first node at which a quantized model stops saying anything of its input.

A tensor has collapsed where, with all calibration nodes on,

1. it keeps less than 5 % of the distinct values that it has in the float model (of 256 at most), or
2. it is the same for every sample, and is not in the float model.

The calibration nodes are looked at as well as the ordinary ones, in the order in which values pass them: where a mask of -1e9
sets the range, what is quantized is 0 or the mask, and the calibration node behind the sum is the first to say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.debug.calibrations import Calibrated
from calibrant.debug.partial import MEMORY_BYTES
from calibrant.debug.samples import Subject, opened_subject
from calibrant.debug.tensors import looked_into, tensors_of
from calibrant.debug.written import write_csv, write_json
from calibrant.graph.load import ModelLike
from calibrant.progress import Callback, Progress

__all__ = ["KEPT", "CollapseReport", "CollapseRow", "collapse_check", "look_for_collapse"]

Array = npt.NDArray[Any]

#: Share of the distinct values that is kept at least.
KEPT = 0.05

#: Distinct values that are expected at most: those of 8 bits.
MOST = 256

#: Values of one sample that are looked at, evenly spaced, and samples whose values are counted.
LOOKED_AT, COUNTED = 1024, 8


@dataclass(frozen=True, slots=True)
class CollapseRow:
    """One tensor.

    Args:
        node: The node: an ordinary one that gives the tensor, or a calibration node that quantizes it.
        kind: `node`, `activation`, or `output` for an output of the model.
        tensor: Its name.
        distinct: Distinct values with everything quantized, of those that are looked at.
        distinct_float: The same in the float model.
        entropy_bits: Entropy of the values with everything quantized [bits].
        correlation: Correlation of the values in both models; NaN where one of them is constant.
        same_for_all: Whether every sample gives the same, and the float model does not.
        collapsed: Whether it has collapsed.
    """

    node: str
    kind: str
    tensor: str
    distinct: int
    distinct_float: int
    entropy_bits: float
    correlation: float
    same_for_all: bool
    collapsed: bool


@dataclass(frozen=True, slots=True)
class CollapseReport:
    """All tensors, in the order in which values pass them.

    Args:
        samples: Samples that were looked at.
        rows: Tensors of nodes, then the outputs of the model.
        first: The first node that has collapsed; None where none has.
        message: What was found, as a sentence.
    """

    samples: int
    rows: tuple[CollapseRow, ...]
    first: str | None
    message: str

    @property
    def collapsed(self) -> tuple[CollapseRow, ...]:
        """What has collapsed."""
        return tuple(r for r in self.rows if r.collapsed)

    def content(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "samples": self.samples,
            "first": self.first,
            "message": self.message,
            "collapsed": [r.node for r in self.collapsed],
            "tensors": [asdict(r) for r in self.rows],
        }

    def save(self, folder: Path) -> list[Path]:
        """Write `collapse_check.csv` and `.json`."""
        columns = list(CollapseRow.__slots__)
        rows = [[getattr(r, c) for c in columns] for r in self.rows]
        return [
            write_csv(folder / "collapse_check.csv", columns, rows),
            write_json(folder / "collapse_check.json", self.content()),
        ]


def collapse_check(
    model_or_file: ModelLike,
    calibrated_data: Any,
    data_num: int | None = None,
    save_dir: str | Path | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callback | None = None,
) -> CollapseReport:
    """Find the first node at which the quantized model stops saying anything of its input.

    Args:
        model_or_file: The calibrated model: a path, a model in memory, or a result of `calibrant.quantize`.
        calibrated_data: Samples, as `calibrant.quantize` takes them.
        data_num: Samples; None for 8, or all where there are fewer.
        save_dir: Folder for `collapse_check.csv` and `.json`.
        memory_bytes: Bytes of activations that are kept at a time.
        progress: Called with a stage, what is done of it, and how much there is.

    Returns:
        Distinct values, entropy and correlation of each tensor, and the first node that has collapsed.

    Raises:
        ConfigValueError: `data_num` is below 1.
        ModelError: The model cannot be read or run.
        DataError: The data is empty or does not fit.
        OutputError: `save_dir` cannot be written.
    """
    subject = opened_subject(model_or_file, calibrated_data, data_num, memory_bytes=memory_bytes)
    found = look_for_collapse(subject, progress=progress)
    if save_dir is not None:
        found.save(Path(save_dir))
    return found


@dataclass(slots=True, eq=False)
class _Watch:
    """One tensor, feed by feed."""

    node: str
    kind: str
    tensor: str
    values: list[tuple[Array, Array]] = field(default_factory=list)
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))
    first: tuple[Array, Array] | None = None
    samples: int = 0
    moved: list[bool] = field(default_factory=lambda: [False, False])

    def add(self, truth: Array, mine: Array, size: int, *, rows: bool) -> None:
        if truth.dtype.kind != "f" or truth.shape != mine.shape or not truth.size:
            return
        many = rows and truth.shape[:1] == (size,)
        for i in range(size if many else 1):
            y, x = (truth[i], mine[i]) if many else (truth, mine)
            self._one(np.ravel(y), np.ravel(x))

    def _one(self, y: Array, x: Array) -> None:
        self.samples += 1
        step = -(-y.size // LOOKED_AT)
        y, x = y[::step], x[::step]
        if self.first is None:
            self.first = y.copy(), x.copy()
        elif self.first[0].shape == y.shape:
            self.moved[0] |= not np.array_equal(y, self.first[0], equal_nan=True)
            self.moved[1] |= not np.array_equal(x, self.first[1], equal_nan=True)
        said = np.isfinite(y) & np.isfinite(x)
        y, x = y[said], x[said]
        if len(self.values) < COUNTED:
            self.values.append((y.copy(), x.copy()))
        a, b = y.astype(np.float64), x.astype(np.float64)
        with np.errstate(over="ignore"):
            self.sums += [a.size, a.sum(), b.sum(), a @ a, b @ b, a @ b]

    @property
    def row(self) -> CollapseRow:
        in_float = np.unique(np.concatenate([y for y, _ in self.values])).size
        counts = np.unique(np.concatenate([x for _, x in self.values]), return_counts=True)[1]
        distinct, known = counts.size, min(MOST, in_float)
        p = counts / max(1, counts.sum())
        entropy = float(-(p * np.log2(p)).sum()) + 0.0
        n, a, b, aa, bb, ab = self.sums.tolist()
        spread = max(0.0, aa - a * a / n) * max(0.0, bb - b * b / n) if n else 0.0
        correlation = (ab - a * b / n) / spread**0.5 if spread > 0 else float("nan")
        same = self.samples > 1 and self.moved[0] and not self.moved[1]
        few = known > 1 and (distinct < KEPT * known or distinct < 2)
        return CollapseRow(
            self.node,
            self.kind,
            self.tensor,
            distinct,
            in_float,
            entropy,
            correlation,
            same,
            few or same,
        )


def look_for_collapse(subject: Subject, *, progress: Callback | None = None) -> CollapseReport:
    """Do what `collapse_check` does, without writing."""
    calibrated = subject.calibrated
    watches = list(_watches(calibrated, tensors_of(subject)))
    stages = Progress(progress)
    done = 0
    with stages.stage("collapse"):
        for seen in looked_into(subject, [list(calibrated.nodes)], [w.tensor for w in watches]):
            for w in watches:
                truth = seen.truth[w.tensor]
                mine = seen.mine[0].get(w.tensor, truth)
                if w.kind == "activation" and mine.dtype.kind == "f":
                    mine = calibrated.nodes[w.node].apply(mine)
                w.add(truth, mine, seen.batch.size, rows=seen.rows)
            done += seen.batch.size
            stages.step(done, subject.feeds.samples)
    rows = tuple(w.row for w in watches if w.samples)
    first = next((r for r in rows if r.collapsed), None)
    return CollapseReport(
        done, rows, first.node if first else None, _message(calibrated, first, done)
    )


def _watches(calibrated: Calibrated, tensors: dict[str, str]) -> Iterator[_Watch]:
    """Yield what is looked at, in the order in which values pass it."""
    behind: dict[str, list[str]] = {}
    nodes = {n.name: n for n in calibrated.model.graph}
    made = {v.name for n in nodes.values() for v in n.outputs}
    moving = {n: c for n, c in calibrated.nodes.items() if c.kind == "activation"}
    for name, c in moving.items():
        behind.setdefault(c.tensor, []).append(name)
    for name, c in moving.items():
        if c.tensor not in made:  # an input of the model
            yield _Watch(name, "activation", c.tensor)
    for node, tensor in tensors.items():
        yield _Watch(node, "node", tensor)
        for v in nodes[node].outputs:
            for name in behind.get(v.name or "", ()):
                yield _Watch(name, "activation", calibrated.nodes[name].tensor)
    for name in calibrated.outputs:
        yield _Watch(name, "output", name)


def _message(calibrated: Calibrated, first: CollapseRow | None, samples: int) -> str:
    if first is None:
        return f"Nothing has collapsed on {samples} sample{'s' * (samples != 1)}."
    if first.kind == "activation":
        c = calibrated.nodes[first.node]
        readers = [f"'{r}'" for r, _ in c.readers if r not in calibrated.own_outputs]
        place = f"calibration node '{first.node}'" + (
            f", read by {', '.join(readers)}" if readers else ""
        )
        more = f" Its threshold is {float(c.thresholds.max()):.4g}: look for a mask or an outlier that sets it."
    else:
        place, more = f"{first.kind} '{first.node}'", ""
    kept = f"keeps {first.distinct} of {first.distinct_float} distinct values"
    if first.distinct_float > MOST:
        kept = f"keeps {first.distinct} distinct values, of more than {MOST}"
    what = f"{kept}{', and is the same for every sample' if first.same_for_all else ''}"
    return f"The first collapse is at {place}: tensor '{first.tensor}' {what}.{more}"
