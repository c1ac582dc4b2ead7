"""What was found on the way to a solution, and what was measured of it: typed values that functions return.

The summary is written from these and from the solution (`summary`); nothing else reads the summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from calibrant.graph.passes.fuse_batchnorm import Folded
from calibrant.graph.passes.half import Island
from calibrant.refine.bias_by_rule import RuleCorrection
from calibrant.refine.bias_correction import Correction
from calibrant.refine.few_levels import Refinement
from calibrant.refine.learned_rounding import Learned
from calibrant.runtime.downstream import Work
from calibrant.runtime.measure import Latency, OutputQuality
from calibrant.runtime.nodes import OutputDistance
from calibrant.runtime.saturation import Saturation

__all__ = [
    "DataFindings",
    "Findings",
    "IntegerOutputs",
    "NodeChoice",
    "NodeFidelity",
    "PassFindings",
    "Promoted",
    "PromotionReport",
    "QualityFindings",
    "SearchReport",
    "Trial",
]


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was built and measured.

    Args:
        stage: What is being decided: `ranges` (equalization and algorithm), `search` (the recipe's own
            candidates) or `bias correction`.
        name: The setting.
        score: What it reached.
        chosen: Whether it was taken.
        metric: What the score is: a metric's name; `sqnr` is the mean over the outputs [dB].
        outputs: What each output, or each part of the outputs, reached.
        seconds: What a search took for it [s].
        samples: On how many samples it was measured; none of them had a part in its ranges.
        reason: What came of the comparison with the option that was best until then.
    """

    stage: str
    name: str
    score: float
    chosen: bool = False
    metric: str = "sqnr"
    outputs: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0
    reason: str = ""


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


@dataclass(frozen=True, slots=True)
class IntegerOutputs:
    """What it costs that layers answer in integers where nobody needs that but their kernels.

    Args:
        part: Output, or part of one, that loses most.
        db: Its SQNR [dB].
        best_db: Its SQNR without these roundings [dB].
        layers: Layers that bring most of it back where they are left in float, the one that loses most first.
        left_db: Its SQNR with these layers in float [dB].
        samples: On how many samples it was measured.
    """

    part: str
    db: float
    best_db: float
    layers: tuple[str, ...]
    left_db: float
    samples: int


@dataclass(frozen=True, slots=True)
class LeftInFloat:
    """Layers that stay in float, since the outputs collapse where they are quantized.

    Args:
        layers: Layer -> what the worst output reaches where this layer alone is quantized [dB].
        db: Mean SQNR over the parts of the outputs with them quantized [dB].
        left_db: The same with them in float [dB].
    """

    layers: Mapping[str, float]
    db: float
    left_db: float


@dataclass(frozen=True, slots=True)
class DataFindings:
    """What data the ranges come from.

    Args:
        samples: Samples that were observed.
        batches: In so many batches.
        notes: What was left out, or done in another way, and why.
    """

    samples: int = 0
    batches: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PassFindings:
    """What the passes did to the float model and to the parameters.

    Args:
        folded: Batch normalizations.
        half: Nodes that compute in float16.
        narrowed: Layers whose scales grew, so that sums of two products fit 16 bits.
        learned: Layers whose rounding was learned.
        refinements: Layers whose levels were refined.
        corrections: Layers whose bias was corrected because it makes the outputs better.
        corrections_by_rule: Layers whose bias was corrected because a rule asks it.
    """

    folded: tuple[Folded, ...] = ()
    half: tuple[Island, ...] = ()
    narrowed: tuple[str, ...] = ()
    learned: tuple[Learned, ...] = ()
    refinements: tuple[Refinement, ...] = ()
    corrections: tuple[Correction, ...] = ()
    corrections_by_rule: tuple[RuleCorrection, ...] = ()


@dataclass(frozen=True, slots=True)
class QualityFindings:
    """How near the outputs of the deployed model are to those of the float model.

    Args:
        samples: How many samples it was taken from.
        outputs: Output by output.
        not_compared: Outputs that cannot be compared.
        saturated: Outputs that the 8-bit kernels of this CPU spoil.
        unseen: On how many samples, which its ranges do not come from, the SQNR of parts was taken; 0 where the parts
            have the figures of samples that were seen.
    """

    samples: int = 0
    outputs: tuple[OutputQuality, ...] = ()
    not_compared: tuple[str, ...] = ()
    saturated: tuple[Saturation, ...] = ()
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found and measured.

    Args:
        data: What data the ranges come from.
        trials: Every setting that was built and measured, in order.
        search: A search between the candidates of a recipe.
        promotion: Layers that were raised.
        passes: What the passes did.
        quality: How good the outputs are.
        nodes: The quantized model node by node, where that was asked for.
        distances: The outputs sample by sample, where that was asked for.
        integer_outputs: What it costs that layers answer in integers; None where it costs little.
        left_in_float: Layers that stay in float because the outputs would collapse otherwise; None where none do.
        latency: Time of one inference.
        seconds: Stage -> wall time [s].
    """

    data: DataFindings = field(default_factory=DataFindings)
    trials: tuple[Trial, ...] = ()
    search: SearchReport | None = None
    promotion: PromotionReport | None = None
    passes: PassFindings = field(default_factory=PassFindings)
    quality: QualityFindings = field(default_factory=QualityFindings)
    nodes: tuple[NodeFidelity, ...] = ()
    distances: tuple[OutputDistance, ...] = ()
    integer_outputs: IntegerOutputs | None = None
    left_in_float: LeftInFloat | None = None
    latency: Latency | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
