"""What other commands measured, as a report reads it from their files: the fields that it shows, the rest left aside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = [
    "Advised",
    "AdvisedStep",
    "ComparedLayer",
    "ComparedPart",
    "Comparison",
    "Loss",
    "OriginRow",
    "Origins",
    "Rank",
    "Shares",
]


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the error of a tensor comes from (`diagnose.origins.Origin`)."""

    sqnr_db: float
    arrived: float
    born: float
    activation_clipping: float
    activation_rounding: float
    weight_clipping: float
    weight_rounding: float
    bias: float
    other: float = 0.0


@dataclass(frozen=True, slots=True)
class OriginRow:
    """One layer of `attribution.json` (`diagnose.attribute.LayerOrigin`)."""

    name: str
    op_type: str
    output: str
    energy: float
    cause: str
    shares: Shares
    channels: tuple[tuple[int, float], ...]
    parts: dict[str, Shares] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origins:
    """`attribution.json`: layers, those first in which most is born."""

    samples: int
    layers: tuple[OriginRow, ...]

    def by_name(self) -> dict[str, OriginRow]:
        """Return the layers by name."""
        return {row.name: row for row in self.layers}


@dataclass(frozen=True, slots=True)
class Loss:
    """One layer of `sensitivity.json` (`diagnose.ranking.LayerLoss`)."""

    name: str
    op_type: str
    precision: str
    score: float
    loss: float
    cost: float
    rank: int
    rank_per_cost: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class Rank:
    """`sensitivity.json`: layers, the one that loses most first."""

    model: str
    mode: str
    metric: str
    unit: str
    samples: int
    layers: tuple[Loss, ...]
    notes: tuple[str, ...] = ()

    def by_name(self) -> dict[str, Loss]:
        """Return the layers by name, each in the precision in which it loses most."""
        return {row.name: row for row in reversed(self.layers)}


@dataclass(frozen=True, slots=True)
class Born:
    """Which part of an error is the layer's own (`analysis.compare.tally.Born`)."""

    share: float
    arrived: float
    sqnr_db: float
    activation_clipping: float = 0.0
    activation_rounding: float = 0.0
    weight_clipping: float = 0.0
    weight_rounding: float = 0.0
    bias: float = 0.0
    other: float = 0.0
    cause: str = ""
    kind: str = ""
    energy: float = math.nan
    channels: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """One layer of `compare.json`."""

    index: int
    name: str
    op_type: str
    truth: str
    mine: str
    how: str
    metrics: dict[str, float]
    standard_deviation: str
    worst_sample: str
    passed: bool
    failed: tuple[str, ...]
    reason: str
    born: Born | None = None
    alone: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparedPart:
    """One output of `compare.json`, or a part of it."""

    metrics: dict[str, float]
    worst_sample: str
    passed: bool
    name: str = ""
    parts: tuple[ComparedPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfound:
    """A node without a counterpart."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`compare.json`: layers, worst first."""

    truth: str
    mine: str
    samples: int
    metric: str
    limits: dict[str, float | None]
    passed: bool
    layers: tuple[ComparedLayer, ...]
    outputs: dict[str, ComparedPart]
    unmapped: tuple[Unfound, ...] = ()
    only_mine: tuple[Unfound, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def origins(self) -> Origins | None:
        """Where errors come from, worst first; None where that was not looked at."""
        rows = [_origin(row, row.born) for row in self.by_name().values() if row.born is not None]
        rows = [row for row in rows if not math.isnan(row.energy)]
        rows.sort(key=lambda row: -row.energy)
        return Origins(self.samples, tuple(rows)) if rows else None

    def by_name(self) -> dict[str, ComparedLayer]:
        """Return the first tensor of each layer."""
        return {row.name: row for row in reversed(self.layers)}


@dataclass(frozen=True, slots=True)
class AdvisedStep:
    """One thing to do (`diagnose.advice.steps.Step`)."""

    layers: tuple[str, ...]
    cause: str
    what: str
    gain_db: float
    score_db: float
    rules: str
    costs: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Saw:
    """What a check before quantization saw (`diagnose.triage.finding.Finding`)."""

    check: str
    saw: str
    do: str
    sure: str
    where: tuple[str, ...] = ()
    preprocess: str = ""


@dataclass(frozen=True, slots=True)
class Culprit:
    """A place where the outputs lose (`diagnose.advice.steps.Culprit`)."""

    layers: tuple[str, ...]
    tensor: str
    kind: str
    cause: str
    share: float
    loss_db: float


@dataclass(frozen=True, slots=True)
class Advised:
    """`advice.json`: what to do, best first."""

    model: str
    target: str
    score_db: float
    samples: int
    steps: tuple[AdvisedStep, ...]
    findings: tuple[Saw, ...] = ()
    culprits: tuple[Culprit, ...] = ()
    notes: tuple[str, ...] = ()

    def shares(self) -> dict[str, float]:
        """Return by layer the share of what all places lose alone; of several places of a layer, the sum."""
        found: dict[str, float] = {}
        for place in self.culprits:
            for layer in place.layers[:1]:
                found[layer] = found.get(layer, 0.0) + place.share
        return found


def _origin(row: ComparedLayer, born: Born) -> OriginRow:
    shares = Shares(
        row.metrics.get("sqnr_db", math.nan),
        born.arrived,
        born.share,
        born.activation_clipping,
        born.activation_rounding,
        born.weight_clipping,
        born.weight_rounding,
        born.bias,
        born.other,
    )
    return OriginRow(
        row.name,
        row.op_type,
        row.truth,
        born.energy,
        "_".join(x for x in (born.kind, born.cause) if x),
        shares,
        born.channels,
    )
