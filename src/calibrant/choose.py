"""Statistics and a plan become parameters: pure, no model is run."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import calibrant.algorithms as algorithms
from calibrant.errors import DataError
from calibrant.graph.ops import contracted_axis
from calibrant.numerics import QuantParams, QuantSpec, quantize
from calibrant.numerics.compensation import residual
from calibrant.numerics.half_scale import through_float16
from calibrant.numerics.levels import nearest_level
from calibrant.numerics.pairs import LEARNED_STEPS, PAIR_LIMIT, fit_pairs
from calibrant.numerics.params import smallest_scale
from calibrant.plan import ActivationDecision, Plan, WeightDecision, roles
from calibrant.plan.biases import fitted
from calibrant.plan.folding import float_weight, folded_scales
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.recipe import AlgorithmChoice
from calibrant.stats import TensorStats

__all__ = [
    "Known",
    "choose_activations",
    "choose_for_each",
    "choose_layers",
    "choose_parameters",
    "settled",
    "with_algorithm",
    "with_biases",
]

#: What `auto` stands for where nothing is measured.
AUTO_ACTIVATION = AlgorithmChoice("min-max")
AUTO_WEIGHT = AlgorithmChoice("mse")


@dataclass(slots=True, eq=False)
class Known:
    """What was chosen before, so that equal choices are made once, over many plans of one model.

    Args:
        ranges: Parameters by the statistics they come from, algorithm and grid.
        layers: Rounded weights by the weight, its algorithm and grid, and the scales folded into it.
    """

    ranges: dict[Hashable, QuantParams] = field(default_factory=dict)
    layers: dict[Hashable, LayerParameters] = field(default_factory=dict)
    _alive: dict[int, object] = field(default_factory=dict)

    def key(self, *parts: object) -> tuple[int, ...]:
        """Return the identity of objects, which live on as long as this does."""
        self._alive.update((id(p), p) for p in parts)
        return tuple(id(p) for p in parts)

    def forget(self, model: ir.Model, *, but: Iterable[ir.Model]) -> None:
        """Let go of the rounded weights of a model that nobody asks for again.

        Args:
            model: The model.
            but: Models whose weights stay; forms of one network share some.
        """
        gone = _weights(model).difference(*map(_weights, but))
        self.layers = {k: v for k, v in self.layers.items() if _weight_of(k) not in gone}
        for i in gone:
            self._alive.pop(i, None)


def _weights(model: ir.Model) -> set[int]:
    """Return the identities of the weights of a model."""
    return {id(v.const_value) for v in model.graph.initializers.values()}


def _weight_of(key: Hashable) -> int:
    """Return the identity of the weight that a key of `Known.layers` begins with."""
    assert isinstance(key, tuple)
    return int(key[0][0])


def choose_activations(
    plan: Plan, statistics: Mapping[str, TensorStats], known: Known | None = None
) -> dict[str, QuantParams]:
    """Choose the range of every activation quantizer.

    Quantizers of one group are chosen once, from the merged statistics of their tensors.

    Returns:
        Parameters by quantizer id.
    """
    return choose_for_each([plan], statistics, known)[0]


def choose_for_each(
    plans: Sequence[Plan], statistics: Mapping[str, TensorStats], known: Known | None = None
) -> list[dict[str, QuantParams]]:
    """Choose the ranges of several plans for one model.

    The plans take turns at each tensor, so that what they ask of its statistics is worked out once and
    then forgotten.

    Returns:
        For each plan, parameters by quantizer id.
    """
    found: list[dict[str, QuantParams]] = [{} for _ in plans]
    by_source: dict[tuple[str, ...], list[tuple[int, list[ActivationDecision]]]] = {}
    for n, plan in enumerate(plans):
        groups: dict[str, list[ActivationDecision]] = {}
        for decision in plan.activations:
            groups.setdefault(_key(decision), []).append(decision)
        for members in groups.values():
            source = tuple(dict.fromkeys(d.tensor for d in members))
            by_source.setdefault(source, []).append((n, members))
    for source, entries in by_source.items():
        seen = _Seen([statistics[t] for t in source if t in statistics], known, len(entries) > 1)
        for n, members in entries:
            params = seen.choose(members[0])
            if plans[n].half_scales:
                params = _through_float16(params, members[0].tensor)
            found[n] |= {d.id: params for d in members}
    return found


def _through_float16(params: QuantParams, tensor: str) -> QuantParams:
    """Round a scale as a device does that keeps it so (`numerics.half_scale`); the zero point stays."""
    scale = through_float16(params.scale)
    if not np.isfinite(scale).all():
        raise DataError(
            f"The scale of tensor '{tensor}' is {float(params.scale.max()):.3g}, which float16 cannot hold, nor "
            "its root. Leave the scales in float32, or its readers in float."
        )
    return replace(params, scale=scale)


def _key(decision: ActivationDecision) -> str:
    return f"{decision.group}|{decision.fixed_range}"


class _Seen:
    """The statistics of the tensors of a group, merged when they are asked for."""

    def __init__(
        self, statistics: Sequence[TensorStats], known: Known | None, asked_again: bool
    ) -> None:
        self._statistics, self._asked_again = statistics, asked_again
        self._mine = known.key(*(s.token for s in statistics)) if known is not None else ()
        self._whole: TensorStats | None = None
        self._channels: dict[int, list[TensorStats]] = {}
        self._chosen = known.ranges if known is not None else {}

    def choose(self, decision: ActivationDecision) -> QuantParams:
        """Choose the range of a quantizer."""
        if decision.fixed_range is not None:
            return QuantParams.from_range(*decision.fixed_range, decision.spec)
        if not any(s.count or s.nonfinite for s in self._statistics):
            raise DataError(f"Tensor '{decision.tensor}' had no values in the calibration data.")
        choice = _settled_activation(decision.algorithm)
        key = self._mine, choice, decision.spec
        if key not in self._chosen:
            self._chosen[key] = self._choose(choice, decision.spec)
        return self._chosen[key]

    def _choose(self, choice: AlgorithmChoice, spec: QuantSpec) -> QuantParams:
        algorithm = algorithms.activation(choice.name, **dict(choice.options))
        if spec.axis is None:
            if self._whole is None:
                whole = reduce(TensorStats.merge, [s.whole for s in self._statistics])
                self._whole = _finite(whole)
            return algorithm(self._whole, spec)
        if spec.axis in self._channels:
            return _by_channel(algorithm, self._channels[spec.axis], spec)
        parts = zip(*(s.of_channels(spec.axis) for s in self._statistics), strict=True)
        channels = (_finite(reduce(TensorStats.merge, part)) for part in parts)
        if self._asked_again:  # what algorithms work out of a channel is kept with it
            self._channels[spec.axis] = list(channels)
            return _by_channel(algorithm, self._channels[spec.axis], spec)
        return _by_channel(algorithm, (c.whole for c in channels), spec)


def _finite(stats: TensorStats) -> TensorStats:
    """Return the statistics of the finite values; of a single 0 where there are none, which any range holds."""
    return stats.finite if stats.count else TensorStats.of(np.zeros(1, dtype=np.float32))


def _by_channel(
    algorithm: algorithms.ActivationAlgorithm, channels: Iterable[TensorStats], spec: QuantSpec
) -> QuantParams:
    """Choose a range for each channel by itself.

    A channel in which nothing was seen but zeros (or less than the guard of the kernel lets through) says
    nothing about its scale. It takes the smallest of the others: its column of the weight then stays
    small where scales are folded into it, and disturbs nobody.
    """
    each = replace(spec, axis=None)
    chosen: list[QuantParams] = []
    ranges, magnitudes = [], []
    # asked once: to ask of a protocol is slow
    range_of = algorithm.range_of if isinstance(algorithm, algorithms.RangeAlgorithm) else None
    for stats in channels:  # one after the other: none is held here
        if range_of is not None:
            ranges.append(range_of(stats, each))
        else:
            chosen.append(algorithm(stats, each))
        magnitudes.append(max(abs(stats.min), abs(stats.max)))
    if ranges:
        low, high = np.transpose(ranges)
        chosen = [QuantParams.from_range(low, high, each)]  # all channels at once
    scale = np.hstack([p.scale for p in chosen])  # (channels,)
    zero_point = np.hstack([p.zero_point for p in chosen])
    largest = np.array(magnitudes)
    alive = largest >= smallest_scale(spec) * (spec.dtype.qmax - spec.dtype.qmin)
    if alive.any():
        scale[~alive] = scale[alive].min()
    return QuantParams(scale, zero_point, spec.dtype, spec.axis)


def choose_layers(
    plan: Plan,
    model: ir.Model,
    activations: Mapping[str, QuantParams] | None = None,
    known: Known | None = None,
) -> dict[str, LayerParameters]:
    """Choose the scale of every weight and round it to its grid.

    Args:
        plan: Where quantizers stand.
        model: The model that the plan belongs to.
        activations: Parameters by quantizer id; where a layer's input has scales by channel that are
            folded into its weight, the weight is scaled by them first (`plan.granularity`). Not needed
            by a plan without such inputs.

    Returns:
        Parameters by node name.
    """
    nodes = {node.name: node for node in model.graph} if plan.target.pairs_in_16_bits else {}
    found = {}
    for w in plan.weights:
        paired = contracted_axis(nodes[w.layer]) if nodes else None
        if known is None:
            found[w.layer] = _layer(w, float_weight(model, plan, w, activations or {}), paired)
            continue
        scales = folded_scales(model, plan, w, activations or {})
        const = model.graph.initializers[w.weight].const_value
        key = (
            known.key(const),
            _settled_weight(w.algorithm),
            w.spec,
            w.compensation,
            scales.tobytes() if scales is not None else None,
            paired,
        )
        if key not in known.layers:
            weight = float_weight(model, plan, w, activations or {})
            known.layers[key] = _layer(w, weight, paired)
        found[w.layer] = known.layers[key]
    return found


def choose_parameters(
    plan: Plan,
    model: ir.Model,
    statistics: Mapping[str, TensorStats],
    known: Known | None = None,
) -> Parameters:
    """Choose everything: activations first, since weights may take over the scales of their channels."""
    activations = choose_activations(plan, statistics, known)
    params = Parameters(activations, choose_layers(plan, model, activations, known))
    return with_biases(plan, model, params, statistics)


def with_biases(
    plan: Plan, model: ir.Model, params: Parameters, statistics: Mapping[str, TensorStats]
) -> Parameters:
    """Return parameters whose weights have scales that their biases can live with (`plan.biases`)."""
    groups: dict[str, list[ActivationDecision]] = {}
    for d in plan.activations:
        groups.setdefault(_key(d), []).append(d)
    empty = [
        [d.id for d in group]
        for group in groups.values()
        if all(_only_zeros(statistics.get(d.tensor)) for d in group)
    ]
    return fitted(model, plan, params, empty)


def _only_zeros(stats: TensorStats | None) -> bool:
    return stats is not None and stats.count > 0 and stats.min == stats.max == 0


def _layer(
    decision: WeightDecision, w: npt.NDArray[np.float32], paired: int | None
) -> LayerParameters:
    """Choose the scale of a weight; `paired` is the axis whose neighbours have to add up in 16 bits, if any do."""
    if not np.isfinite(w).all():
        raise DataError(
            f"The weight '{decision.weight}' of layer '{decision.layer}' holds NaN or Inf."
        )
    choice = _settled_weight(decision.algorithm)
    algorithm = algorithms.weight(choice.name, **dict(choice.options))
    params = algorithm(w, decision.spec)
    if paired is not None and params.dtype.bits <= 8:  # no kernel takes 16 bits in pairs
        limit = PAIR_LIMIT if roles.rounding(choice) is None else PAIR_LIMIT - LEARNED_STEPS
        params = fit_pairs(params, lambda p: _rounded(w, p, choice)[0], paired, limit=limit)
    values, levels = _rounded(w, params, choice)
    if levels is not None:
        return LayerParameters(params, values, levels=levels)
    rest = residual(w, values, params) if decision.compensation else None
    return LayerParameters(params, values, residual=rest)


def _rounded(
    w: npt.NDArray[np.float32], params: QuantParams, choice: AlgorithmChoice
) -> tuple[npt.NDArray[np.int32], tuple[int, ...] | None]:
    """Return a weight on its grid, and the levels that it keeps, if its algorithm keeps a few."""
    values = quantize(w, params)
    if roles.codebook(choice) is None:
        return values, None
    levels = roles.levels_of(choice, values)
    return nearest_level(values, levels), levels


def _settled_activation(choice: AlgorithmChoice) -> AlgorithmChoice:
    return AUTO_ACTIVATION if choice.name == "auto" else choice


def _settled_weight(choice: AlgorithmChoice) -> AlgorithmChoice:
    return AUTO_WEIGHT if choice.name == "auto" else choice


def with_algorithm(plan: Plan, choice: AlgorithmChoice) -> Plan:
    """Return a plan in which every activation algorithm that is `auto` is `choice`."""
    return replace(
        plan,
        activations=tuple(
            replace(d, algorithm=choice) if d.algorithm.name == "auto" else d
            for d in plan.activations
        ),
    )


def settled(plan: Plan) -> Plan:
    """Return a plan that names the algorithms that were used, in the place of `auto`."""
    return replace(
        plan,
        activations=tuple(
            replace(d, algorithm=_settled_activation(d.algorithm)) for d in plan.activations
        ),
        weights=tuple(replace(d, algorithm=_settled_weight(d.algorithm)) for d in plan.weights),
    )
