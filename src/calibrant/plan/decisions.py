"""Decisions: what becomes of each tensor and each layer of one model, and which rule said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from calibrant.algorithms import CodebookAlgorithm, RoundingAlgorithm
from calibrant.graph.targets import Target
from calibrant.numerics import QuantSpec
from calibrant.plan import roles
from calibrant.recipe import AlgorithmChoice, Note, Settings

__all__ = [
    "ActivationDecision",
    "BiasWish",
    "Edge",
    "LayerDecision",
    "Plan",
    "Spot",
    "WeightDecision",
]

#: One input of a node: its name and the index of the input.
Edge = tuple[str, int]

#: An edge, or a whole node (None).
Spot = tuple[str, int | None]

#: What counts for the correction of a bias where a rule names samples or a metric alone.
DEFAULT_BIAS_SAMPLES, DEFAULT_BIAS_METRIC = 1, "cosine-similarity"


@dataclass(frozen=True, slots=True)
class ActivationDecision:
    """One activation quantizer.

    Args:
        id: Name of the quantizer: its tensor's, with a number where a tensor has several.
        tensor: Tensor that is quantized.
        users: Edges (node, input index) that read the quantized tensor.
        producer: Node that needs this quantizer to run in integers; then every reader takes it.
        spec: Grid and symmetry; `axis` is that of the channels where each has a scale of its own.
        algorithm: How its range is chosen.
        fixed_range: Range by definition; no statistics are used.
        group: Quantizers with equal groups share their parameters.
        origin: Field of the settings -> the rule that decided it.
        folded: Whether the readers take the channels' scales into their weights, so that they read
            every channel at one scale (`plan.granularity`).
        channels: How many channels there are along `spec.axis`; None for one scale a tensor.
        compensation: A second 8-bit value says what the first leaves (`numerics.compensation`).
    """

    id: str
    tensor: str
    users: tuple[Edge, ...]
    producer: str | None
    spec: QuantSpec
    algorithm: AlgorithmChoice
    fixed_range: tuple[float, float] | None
    group: str
    origin: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False
    channels: int | None = None
    compensation: bool = False


@dataclass(frozen=True, slots=True)
class WeightDecision:
    """One weight quantizer, by the layer that owns it.

    Args:
        layer: Node name.
        weight: Initializer.
        input_index: Input of the layer that the weight is.
        bias: Bias initializer, or None.
        spec: Grid; `axis` is the output channel axis or None.
        channel_axis: Output channel axis, whether or not the scales follow it.
        algorithm: How its scale is chosen.
        origin: Field of the settings -> the rule that decided it.
        compensation: A second 8-bit value says what the first leaves (`numerics.compensation`).
        stores_indices: The deployed weight is 4-bit indices into its levels.
    """

    layer: str
    weight: str
    input_index: int
    bias: str | None
    spec: QuantSpec
    channel_axis: int | None
    algorithm: AlgorithmChoice
    origin: Mapping[str, str] = field(default_factory=dict)
    compensation: bool = False
    stores_indices: bool = False

    @property
    def codebook(self) -> CodebookAlgorithm | None:
        """The algorithm where it keeps a few levels of the grid, else None."""
        return roles.codebook(self.algorithm)

    @property
    def rounding(self) -> RoundingAlgorithm | None:
        """The algorithm where it learns its rounding, else None."""
        return roles.rounding(self.algorithm)


@dataclass(frozen=True, slots=True)
class LayerDecision:
    """What becomes of one operator of the target.

    Args:
        node: Its name.
        op_type: Its operator.
        settings: All settings, complete.
        origin: Field -> the rule that decided it.
        quantized: Whether it runs in integers.
        reason: Why not, or an empty string.
        by_recipe: Whether it is in float because the recipe says so, of itself or of all that it reads.
    """

    node: str
    op_type: str
    settings: Settings
    origin: Mapping[str, str]
    quantized: bool
    reason: str = ""
    by_recipe: bool = False


@dataclass(frozen=True, slots=True)
class BiasWish:
    """What a rule asks for the bias of a layer.

    Args:
        samples: Samples that the correction is taken from; 0 leaves the bias.
        metric: By which it must be better, by name.
    """

    samples: int
    metric: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Every decision for one model.

    Args:
        target: The device.
        activations: Activation quantizers, in graph order.
        weights: Weight quantizers, in graph order.
        layers: Every operator that some target quantizes, and what becomes of it.
        followers: Nodes that are kept in integers because their inputs are.
        half: Nodes that compute in float16.
        notes: What could not be done as asked.
        half_scales: Scales of activations are rounded through float16.
    """

    target: Target
    activations: tuple[ActivationDecision, ...]
    weights: tuple[WeightDecision, ...]
    layers: tuple[LayerDecision, ...]
    followers: tuple[str, ...]
    half: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    half_scales: bool = False
    _by_edge: Mapping[Edge, ActivationDecision] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Look up once which quantizer each edge reads; the first that names it counts."""
        read = {edge: d for d in reversed(self.activations) for edge in d.users}
        object.__setattr__(self, "_by_edge", read)

    def __repr__(self) -> str:
        layers = f"{sum(d.quantized for d in self.layers)} of {len(self.layers)} layers quantized"
        quantizers = f"{len(self.activations)} activations and {len(self.weights)} weights"
        return f"Plan(target {self.target.name}, {quantizers}, {layers})"

    def at(self, edge: Edge) -> ActivationDecision | None:
        """Return the quantizer that an input reads; None where it reads floats."""
        return self._by_edge.get(edge)

    def weight_of(self, layer: str) -> WeightDecision | None:
        """Return the quantizer of a layer's weight; None where it has none."""
        return next((w for w in self.weights if w.layer == layer), None)

    @property
    def observed_tensors(self) -> tuple[str, ...]:
        """Tensors whose statistics are needed, in graph order."""
        return tuple(dict.fromkeys(d.tensor for d in self.activations if d.fixed_range is None))

    @property
    def channel_axes(self) -> dict[str, tuple[int, ...]]:
        """Axes of the observed tensors along which each channel has a range of its own."""
        found: dict[str, set[int]] = {}
        for d in self.activations:
            if d.spec.axis is not None and d.fixed_range is None:
                found.setdefault(d.tensor, set()).add(d.spec.axis)
        return {tensor: tuple(sorted(axes)) for tensor, axes in found.items()}

    @property
    def tiny_to_one(self) -> bool:
        """Whether a scale below float32 epsilon becomes 1, as in vendors' kernels."""
        specs = [d.spec for d in self.activations] + [w.spec for w in self.weights]
        return any(spec.tiny_to_one for spec in specs)

    def with_tiny_to_one(self) -> Plan:
        """Return the plan with that limit at every quantizer."""
        return replace(
            self,
            activations=tuple(
                replace(d, spec=replace(d.spec, tiny_to_one=True)) for d in self.activations
            ),
            weights=tuple(
                replace(d, spec=replace(d.spec, tiny_to_one=True)) for d in self.weights
            ),
        )

    @property
    def needs_wide_types(self) -> bool:
        """Whether a quantizer uses a type that came with opset 21."""
        bits = [d.spec.bits for d in self.activations] + [d.spec.bits for d in self.weights]
        return any(b in (4, 16) for b in bits) or any(w.stores_indices for w in self.weights)

    @property
    def refines_levels(self) -> bool:
        """Whether some weight chooses its levels anew by what its layer answers (`refine.few_levels`)."""
        codebooks = (w.codebook for w in self.weights)
        return any(codebook is not None and codebook.rounds > 0 for codebook in codebooks)

    @property
    def learns_rounding(self) -> bool:
        """Whether some weight learns its rounding (`refine.learned_rounding`)."""
        return any(w.rounding is not None for w in self.weights)

    @property
    def bias_wishes(self) -> dict[str, BiasWish]:
        """What rules ask for the biases of quantized layers, by node name (`refine.bias_by_rule`).

        A rule with a metric alone takes 1 sample, one with samples alone the cosine similarity.
        """
        quantized = {w.layer for w in self.weights}
        found = {}
        for d in self.layers:
            samples, metric = d.settings.bias_samples, d.settings.bias_metric
            if d.node in quantized and (samples is not None or metric is not None):
                samples = DEFAULT_BIAS_SAMPLES if samples is None else samples
                found[d.node] = BiasWish(samples, metric or DEFAULT_BIAS_METRIC)
        return found

    @property
    def bias_samples(self) -> int:
        """Samples that the corrections of biases, which rules ask for, are taken from at most; 0 for none."""
        return max((wish.samples for wish in self.bias_wishes.values()), default=0)
