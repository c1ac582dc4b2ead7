"""Decisions: what becomes of each tensor and each layer of one model, and which rule said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from calibrant.graph.targets import Target
from calibrant.numerics import QuantSpec
from calibrant.recipe import AlgorithmChoice, Note, Settings

__all__ = ["ActivationDecision", "LayerDecision", "Plan", "WeightDecision"]


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
    users: tuple[tuple[str, int], ...]
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

    @property
    def stores_indices(self) -> bool:
        """Whether the deployed weight is 4-bit indices into its levels."""
        return ("storage", "indices") in self.algorithm.options


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
    """

    node: str
    op_type: str
    settings: Settings
    origin: Mapping[str, str]
    quantized: bool
    reason: str = ""


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
    def needs_wide_types(self) -> bool:
        """Whether a quantizer uses a type that came with opset 21."""
        bits = [d.spec.bits for d in self.activations] + [d.spec.bits for d in self.weights]
        return any(b in (4, 16) for b in bits) or any(w.stores_indices for w in self.weights)
