"""What is known about one quantization while it goes on; the summary is written from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from calibrant.graph.passes.balance import Balanced
from calibrant.graph.passes.equalize import Equalized
from calibrant.graph.passes.fuse_batchnorm import Folded
from calibrant.graph.passes.half import Island
from calibrant.recipe import Recipe
from calibrant.refine.bias_by_rule import RuleCorrection
from calibrant.refine.bias_correction import Correction
from calibrant.refine.learned_rounding import Learned
from calibrant.refine.nuq import Refinement
from calibrant.runtime.downstream import Work
from calibrant.runtime.measure import Latency, OutputQuality
from calibrant.runtime.nodes import OutputDistance
from calibrant.runtime.runtime import Runtime

__all__ = [
    "Candidate",
    "NodeChoice",
    "NodeFidelity",
    "Progress",
    "Promoted",
    "PromotionReport",
    "Run",
    "SearchReport",
]

logger = logging.getLogger(__name__)

#: Called with a stage, what is done of it, and how much there is (None where nobody knows).
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting that was built and measured.

    Args:
        stage: What is being decided: `ranges` (equalization and algorithm), `search` (the recipe's own
            candidates) or `bias correction`.
        name: The setting.
        score: What it reached.
        chosen: Whether it was taken.
        metric: What the score is: a metric's name; `sqnr` is the mean over the outputs [dB].
        outputs: What each output reached, where a search looked at them one by one.
        seconds: What a search took for it [s].
    """

    stage: str
    name: str
    score: float
    chosen: bool = False
    metric: str = "sqnr"
    outputs: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """One candidate of one node in a search node by node.

    Args:
        node: Its name.
        op_type: Its operator.
        candidate: The candidate.
        score: What it reached; None where all candidates of the node have equal numbers.
        chosen: Whether it was taken.
    """

    node: str
    op_type: str
    candidate: str
    score: float | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class SearchReport:
    """A search between the candidates of a recipe.

    Args:
        scope: `model` or `layer`.
        metric: What decided.
        samples: How many samples it was taken from.
        selected: The candidate of the model; empty for a search node by node.
        rows: Node by node, every candidate.
        work: What a search node by node ran: nodes, and multiplications in layers and matrix products.
        full: What it would have run with the whole model for each candidate of each node.
        seconds: Wall time [s].
    """

    scope: str
    metric: str
    samples: int
    selected: str = ""
    rows: tuple[NodeChoice, ...] = ()
    work: Work = field(default_factory=Work)
    full: Work = field(default_factory=Work)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeFidelity:
    """One node of the quantized model beside the float one.

    Args:
        node: Its name.
        type: Its operator.
        cosine: Of its first output on the first sample, errors of all nodes before it included; None
            where there is nothing to compare.
        threshold: The largest magnitude that the quantizer of its first quantized input keeps, or None.
        data_type: `int8`, `int16`, `float16`, … of what it reads.
        thresholds: Of each quantized input, by input index as text.
    """

    node: str
    type: str
    cosine: float | None
    threshold: float | None
    data_type: str
    thresholds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Promoted:
    """One layer in the ranking by what it loses.

    Args:
        node: Its name.
        op_type: Its operator.
        score: Metric of the model's outputs with this layer alone quantized.
        macs: Its share of the multiplications.
        raised: Whether it was raised.
    """

    node: str
    op_type: str
    score: float
    macs: float
    raised: bool


@dataclass(frozen=True, slots=True)
class PromotionReport:
    """Which layers were raised to a higher precision.

    Args:
        precision: What they were raised to.
        metric: What ranked them.
        samples: How many samples it was taken from.
        ranking: All layers, the one that loses most first.
        fixed: Layers whose type a rule names, which were not ranked.
    """

    precision: str
    metric: str
    samples: int
    ranking: tuple[Promoted, ...]
    fixed: tuple[str, ...]


@dataclass(slots=True)
class Run:
    """What is known about one quantization while it goes on; the summary is written from it."""

    recipe: Recipe
    provider: str
    threads: int | None
    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    search: SearchReport | None = None
    promotion: PromotionReport | None = None
    folded: list[Folded] = field(default_factory=list)
    half: list[Island] = field(default_factory=list)
    equalized: list[Equalized] = field(default_factory=list)
    balanced: list[Balanced] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    refinements: list[Refinement] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    corrections_by_rule: list[RuleCorrection] = field(default_factory=list)
    quality: list[OutputQuality] = field(default_factory=list)
    per_node: bool = False
    nodes: list[NodeFidelity] = field(default_factory=list)
    distances: list[OutputDistance] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    latency: Latency | None = None
    samples: int = 0
    batches: int = 0
    probe_samples: int = 0
    data_notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say that it runs."""
        logger.info("%s", name)
        if self.progress is not None:
            self.progress(name, 0, None)
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        logger.info("%s: %.2f s", name, taken)

    @property
    def runtime(self) -> Runtime:
        """Where models run."""
        return Runtime(self.provider, self.threads)
