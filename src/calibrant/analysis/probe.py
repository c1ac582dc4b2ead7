"""The probe: the first samples of the calibration data, and what the float model answers to them.

Candidates are measured on it. Samples, bytes and feeds are limited, so that a measurement costs the same
however much calibration data there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.answers import Answers, Checking, FloatAnswers
from calibrant.data.batch import Batch
from calibrant.errors import DataError, ModelError
from calibrant.graph.bodies import bodies, dependencies
from calibrant.graph.ops import before_cast
from calibrant.graph.opset import MIN_OPSET, main_opset
from calibrant.graph.values import values_by_name
from calibrant.plan import Plan
from calibrant.recipe import Recipe
from calibrant.runtime.inputs import takes_one_sample
from calibrant.runtime.measure import compare, run
from calibrant.runtime.runtime import CPU, Runtime

__all__ = [
    "Probe",
    "before_selection",
    "check_raised",
    "rows_are_free",
    "samples_for",
    "take_probe",
]

Array = npt.NDArray[Any]

#: So many samples, and at most so many bytes of inputs and of outputs …
PROBE_SAMPLES = 64
PROBE_BYTES = 64 * 2**20
#: … fewer where they only show how good the result is …
QUALITY_SAMPLES = 16
#: … in feeds of so many samples and bytes of inputs, since what a model computes on the way is larger still.
PROBE_FEED = 16
PROBE_FEED_BYTES = 2 * 2**20

#: … and in so many feeds at the least, where there are enough samples: half of them judge what the others say.
PROBE_FEEDS = 8

#: Operators that select by value: behind them positions differ between two models that hardly differ.
_SELECTING = frozenset(
    {"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"}
)

#: Outputs of a model whose opset was raised agree at least so well with those before [dB].
RAISED_SQNR_DB = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """The samples that candidates are measured on, and what the float model answers to them.

    Args:
        batches: The samples as they came.
        small: The same in small batches.
        free: Whether the model takes batches of any size.
        reference: The outputs of the float model for each feed.
        scored: The tensors candidates are compared by: the outputs, or what a final Softmax or Sigmoid
            reads, since behind it a few uncertain samples decide the whole figure.
        scored_reference: The float model's values of these.
    """

    batches: list[Batch]
    small: list[Batch]
    free: bool
    reference: Sequence[Mapping[str, Array]]
    scored: tuple[str, ...]
    scored_reference: Sequence[Mapping[str, Array]]

    @property
    def parts_reference(self) -> Sequence[Mapping[str, Array]]:
        """Answers that the parts of outputs are found from: the same few, whoever asks."""
        return self.first_samples(QUALITY_SAMPLES).scored_reference

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(b.size for b in self.small)

    @property
    def feeds(self) -> list[Mapping[str, Array]]:
        """Inputs of the small batches."""
        return [b.feeds for b in self.small]

    @property
    def first(self) -> Mapping[str, Array]:
        """Inputs of the first sample alone, where batches can be cut; otherwise of the first small batch."""
        return (self.small[0].part(0, 1) if self.free else self.small[0]).feeds

    def hearing(self, model: ir.Model) -> FloatAnswers | Checking | None:
        """Return who is to hear the outputs of a form of the float model, while it is run on feeds.

        This very model's are kept as answers; another form's are looked at for NaN alone. None where nobody has to: the
        model does not say how large its outputs are, and a run that hands them out would have to find that out.
        """
        source = self.reference.source if isinstance(self.reference, Answers) else None
        if source is None or not all(_has_known_size(source.of, n) for n in source.names):
            return None
        return source if source.of is model else source.checking()

    def answer(self) -> None:
        """Let the float model answer all feeds at once, where they will be asked for one by one."""
        list(self.scored_reference)

    def one_by_one(self, count: int) -> tuple[list[Mapping[str, Array]], list[int]]:
        """Return the first samples, one a feed where batches can be cut, and the samples of each feed."""
        feeds: list[Mapping[str, Array]] = []
        sizes: list[int] = []
        for batch in self.small:
            cut = [batch.part(i, i + 1) for i in range(batch.size)] if self.free else [batch]
            for part in cut:
                if sum(sizes) >= count:
                    return feeds, sizes
                feeds.append(part.feeds)
                sizes.append(part.size)
        return feeds, sizes

    def head(self, feeds: int) -> Probe:
        """Return a probe of the first feeds alone."""
        return self.only(range(feeds))

    def only(self, feeds: Iterable[int]) -> Probe:
        """Return a probe of some feeds, by index; those that do not exist are left out."""
        taken = [i for i in feeds if i < len(self.small)]
        return replace(
            self,
            batches=[self.small[i] for i in taken],
            small=[self.small[i] for i in taken],
            reference=_only(self.reference, taken),
            scored_reference=_only(self.scored_reference, taken),
        )

    def first_samples(self, samples: int) -> Probe:
        """Return a probe of the first feeds that hold so many samples."""
        total = 0
        for count, batch in enumerate(self.small, 1):
            total += batch.size
            if total >= samples:
                return self.head(count)
        return self

    def part(self, samples: int) -> Probe:
        """Return a probe of fewer samples: whole small batches, spread over this one."""
        each = max(1, self.small[0].size)
        step = max(1, len(self.small) * each // max(samples, each))
        return self.only(range(0, len(self.small), step))


def _has_known_size(model: ir.Model, tensor: str) -> bool:
    """Whether the model says how large a tensor is, but for its samples."""
    shape = values_by_name(model.graph)[tensor].shape
    return shape is not None and len(shape) > 0 and all(isinstance(d, int) for d in shape[1:])


def _only(
    answers: Sequence[Mapping[str, Array]], places: Sequence[int]
) -> Sequence[Mapping[str, Array]]:
    return answers.only(places) if isinstance(answers, Answers) else [answers[i] for i in places]


def take_probe(
    model: ir.Model,
    stream: Iterator[Batch],
    samples: int,
    runtime: Runtime = CPU,
    ran: Callable[[int], None] = lambda _: None,
) -> Probe:
    """Take the first samples, run the float model on the first of them, and keep both; it is run on others when asked.

    Args:
        model: The prepared float model.
        stream: Calibration data; no more of it is read than the probe takes.
        samples: How many samples to take, if the limits on bytes allow so many.
        runtime: Where it runs.
        ran: Told how many samples the model was run on, now and later.

    Raises:
        DataError: There is no data, or an output holds NaN.
        ModelError: The model has no output to compare, or cannot be run.
    """
    batches: list[Batch] = []
    taken = 0
    for batch in stream:
        batches.append(batch)
        taken += batch.size
        if taken >= samples or _bytes(batches) > PROBE_BYTES:
            break
    if not batches:
        raise DataError("The calibration data is empty: it yields no batch.")
    outputs = [
        v.name or ""
        for v in model.graph.outputs
        if v.producer() is not None and isinstance(v.type, (ir.TensorType, type(None)))
    ]  # no sequences, and nothing that is an input as well
    scored = tuple(n for n in _scored(model) if n in outputs or n not in _output_names(model))
    if not outputs and not scored:
        raise ModelError("The model has no output that is a tensor computed from its inputs.")
    wanted = list(dict.fromkeys([*outputs, *scored]))
    source = FloatAnswers(model, wanted, outputs, runtime, ran)
    free = rows_are_free(model) and not any(b.whole for b in batches)
    try:
        small = _start(source, [*_slices(batches, samples, free=free)])
    except ModelError:
        if not free:
            raise
        free = False  # somewhere inside, the model insists on its batch size
        small = _start(source, [*_slices(batches, samples, free=free)])
    answers = (Answers(source, range(len(small)), names) for names in (outputs, scored))
    return Probe(batches, small, free, next(answers), scored, next(answers))


def _start(source: FloatAnswers, feeds: list[Batch]) -> list[Batch]:
    """Let the model answer the first feed, and one of each size; return as many feeds as the bytes allow.

    The others are answered when somebody asks.
    """
    source.feeds = feeds
    found = source.asked([0], more=True)[0]
    each = sum(np.asarray(x).nbytes for x in found.values()) / max(1, feeds[0].size)
    sizes = itertools.accumulate(b.size for b in feeds)
    few = sum(total * each <= PROBE_BYTES for total in sizes)
    source.feeds = feeds = feeds[: max(2, few + 1)]
    known: dict[int, int] = {}
    for i, batch in enumerate(feeds):
        known.setdefault(batch.size, i)
    source.asked(sorted(known.values()))
    return feeds


def samples_for(recipe: Recipe, plan: Plan) -> int:
    """Return how many samples a recipe needs to be decided, or to show how good it is."""
    samples = PROBE_SAMPLES if _is_measured(plan, recipe) else QUALITY_SAMPLES
    if recipe.search is not None:
        samples = max(samples, recipe.search.samples)
    return max(samples, plan.bias_samples)


def _is_measured(plan: Plan, recipe: Recipe) -> bool:
    """Say whether anything is decided, balanced, refined or corrected by what the probe shows."""
    return (
        recipe.bias_correction != "off"
        or (recipe.equalize != "off" and plan.target.equalize)
        or any(d.algorithm.name == "auto" for d in plan.activations)
        or any(d.settings.balance is not None for d in plan.layers)
        or plan.refines_levels
        or plan.learns_rounding
    )


def check_raised(original: ir.Model, probe: Probe, runtime: Runtime = CPU) -> None:
    """Make sure that a model whose opset was raised still computes what it did.

    Raises:
        ModelError: An output is another one.
    """
    found = run(original, probe.feeds[:1], runtime=runtime)
    for quality in compare(found, probe.reference[:1]):
        if quality.sqnr_db < RAISED_SQNR_DB:
            raise ModelError(
                f"Raising the opset of the model from {main_opset(original)}, which quantization needs, "
                f"changes its output '{quality.name}' (SQNR {quality.sqnr_db:.1f} dB). Export the model "
                f"with opset {MIN_OPSET} or newer."
            )


def _output_names(model: ir.Model) -> set[str]:
    return {v.name or "" for v in model.graph.outputs}


def _scored(model: ir.Model) -> tuple[str, ...]:
    """Tensors to compare two models by: their outputs, taken from before what makes them hard to compare.

    A Cast to the type of an output that is not float32 is taken off, then a final Softmax or Sigmoid; an output behind a
    selection (the boxes that are left) is replaced by the floating point tensors that the selection reads; labels and
    truths by what they come from.
    """
    found: dict[str, None] = {}
    for value in model.graph.outputs:
        value = before_cast(value)
        producer = value.producer()
        if producer is not None and producer.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
            source = producer.inputs[0]
            if source is not None and source.producer() is not None:
                value = source
        found |= dict.fromkeys(before_selection(value) or [value.name or ""])
    return tuple(found)


def before_selection(value: ir.Value) -> list[str]:
    """Return computed floating point inputs of the selections that a value depends on; empty without any."""
    names: list[str] = []
    is_label = value.dtype not in (None, ir.DataType.FLOAT, ir.DataType.FLOAT16)
    stack, seen = [value.producer()], set[ir.Node]()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        decides = is_label and node.op_type not in ("Shape", "Size")
        read = dependencies(node)
        reads_floats = any(v.dtype == ir.DataType.FLOAT for v in read)
        if _selects(node) or (decides and reads_floats):
            names += [
                v.name or ""
                for v in read
                if v.producer() is not None and v.dtype in (None, ir.DataType.FLOAT)
            ]
            continue
        stack += [v.producer() for v in read]
    return names


def _selects(node: ir.Node) -> bool:
    """Say whether a node selects by value, itself or in its bodies."""
    inner = (n for body in bodies(node) for n in body.all_nodes())
    return any(n.op_type in _SELECTING for n in (node, *inner))


def _bytes(batches: Iterable[Batch]) -> int:
    return sum(x.nbytes for b in batches for x in b.feeds.values())


def _slices(batches: list[Batch], samples: int, *, free: bool) -> Iterator[Batch]:
    left = samples
    for batch in batches:
        if not free or batch.size <= 1:
            yield batch
            left -= batch.size
            continue
        each = max(1, sum(x.nbytes for x in batch.feeds.values()) // batch.size)
        step = max(1, min(PROBE_FEED, PROBE_FEED_BYTES // each, samples // PROBE_FEEDS))
        parts = -(-batch.size // step)
        ends = [batch.size * (i + 1) // parts for i in range(parts)]  # nearly equal parts
        for start, end in itertools.pairwise([0, *ends]):
            if left <= 0:
                return
            part = batch.part(start, min(end, start + left))
            yield part
            left -= part.size


def rows_are_free(model: ir.Model) -> bool:
    """Whether every input has a free first dimension, so that samples can be cut; numbers have none and are shared."""
    ranked = [v for v in model.graph.inputs if v.shape is None or len(v.shape) > 0]
    return (
        bool(ranked)
        and all(v.shape is not None and not isinstance(v.shape[0], int) for v in ranked)
        and not takes_one_sample(model)
    )
