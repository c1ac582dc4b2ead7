"""Correct biases by local errors: what each layer alone does to its mean, with float values before it.

    delta[c] = mean over samples and positions of (y_float[c] - y_alone[c])            (out,)
    bias'    = bias + delta

y_alone is the layer's output with its own input and weight quantized, and nothing before it. Where the errors of
layers do not add up (a later layer undoes what an earlier one did), this harms less than a walk through the
quantized model, and one run of all layers side by side is enough for all of them.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2;
there the mean input comes from batch normalization, here it is measured.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.layers_alone import emit_layers_alone
from calibrant.graph.values import node_named
from calibrant.plan import Plan, WeightDecision
from calibrant.plan.parameters import Parameters
from calibrant.refine._biases import (
    can_correct,
    cross_validated,
    output_axis,
    with_bias,
)
from calibrant.refine._side_by_side import SideBySide
from calibrant.refine.bias_correction import Correction
from calibrant.runtime.runtime import CPU, Runtime

__all__ = [
    "LocalError",
    "LocalErrors",
    "Twins",
    "correct_by_local_errors",
    "joined",
    "local_errors",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class LocalError:
    """The mean error that one layer alone adds to its output channels.

    Args:
        error: Mean of (y_float - y_alone) for each feed (feeds, out).
        power: Mean square of its float output.
    """

    error: npt.NDArray[np.float64]
    power: float


@dataclass(frozen=True, slots=True, eq=False)
class LocalErrors:
    """The errors of the layers whose bias may be corrected.

    Args:
        layers: The layers.
        errors: What each adds.
    """

    layers: Mapping[str, WeightDecision]
    errors: Mapping[str, LocalError]


def local_errors(
    model: ir.Model,
    plan: Plan,
    params: Parameters,
    feeds: Sequence[Mapping[str, Array]],
    *,
    runtime: Runtime = CPU,
    known: dict[Hashable, LocalError] | None = None,
    twins: Twins | None = None,
) -> tuple[LocalErrors, float]:
    """Measure the error of every layer that has a bias (or can be given one), from one run of each feed.

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        feeds: Calibration samples.
        runtime: Where it runs.
        known: Errors of layers measured before, with the same objects as parameters; new ones are added.
        twins: What ran other feeds with the same parameters, and stays open.

    Returns:
        The errors, and the share of the layers that had to be measured.
    """
    doubled = {n for d in plan.activations if d.compensation for n, _ in d.users}
    own = plan.bias_wishes
    targets = {
        w.layer: w
        for w in plan.weights
        if can_correct(model, w)
        and w.layer not in own
        and not w.compensation
        and w.layer not in doubled
    }
    known = known if known is not None else {}
    keys = {n: _key(model, plan, params, w) for n, w in targets.items()}
    missing = {n: w for n, w in targets.items() if keys[n] not in known}
    if missing:
        twins = twins if twins is not None else Twins(model, plan, params, runtime)
        measured = twins.measured(missing, feeds)
        known |= {keys[n]: error for n, error in measured.items()}
    errors = {n: known[keys[n]] for n in targets}
    return LocalErrors(targets, errors), len(missing) / max(1, len(targets))


def _key(model: ir.Model, plan: Plan, params: Parameters, w: WeightDecision) -> Hashable:
    edge = (w.layer, 1 - w.input_index)
    d = plan.at(edge)
    inputs = params.activations[d.id] if d is not None else None
    return w.layer, model, inputs, params.layers[w.layer]


@dataclass(slots=True, eq=False)
class Twins:
    """Layers beside their quantized twins, which stay open from some feeds to the next.

    Args:
        model: The prepared float model that `plan` belongs to.
        plan: Where quantizers stand.
        params: What they are.
        runtime: Where it runs.
    """

    model: ir.Model
    plan: Plan
    params: Parameters
    runtime: Runtime = CPU
    _open: tuple[frozenset[str], SideBySide] | None = None

    def measured(
        self, targets: Mapping[str, WeightDecision], feeds: Sequence[Mapping[str, Array]]
    ) -> dict[str, LocalError]:
        """Return what layers alone lose on feeds."""
        run = self._running(targets)
        rows = [run.means(feed, last=i == len(feeds)) for i, feed in enumerate(feeds, 1)]
        found = {}
        for n in targets:
            mean, alone, square = zip(*(row[n] for row in rows), strict=True)
            error = np.stack(mean) - np.stack(alone)
            found[n] = LocalError(error, float(np.mean(square)))
        return found

    def _running(self, targets: Mapping[str, WeightDecision]) -> SideBySide:
        if self._open is not None and self._open[0] == frozenset(targets):
            return self._open[1]
        made = partial(emit_layers_alone, self.model, self.plan, self.params, targets)
        both, twins = made()
        pairs = {
            n: (
                node_named(self.model.graph, n).outputs[0].name or "",
                twins[n],
                output_axis(self.model, w),
            )
            for n, w in targets.items()
        }
        given = [both]
        del both
        run = SideBySide(lambda: given.pop() if given else made()[0], pairs, self.runtime)
        self._open = frozenset(targets), run
        return run


def joined(one: LocalErrors, other: LocalErrors) -> LocalErrors:
    """Return the errors of feeds that took turns: the first, the third and so on are those of `one`.

    `other` may have one feed less.
    """
    errors = {}
    for name, a in one.errors.items():
        b = other.errors[name]
        both = np.empty((len(a.error) + len(b.error), a.error.shape[1]))
        both[::2], both[1::2] = a.error, b.error
        power = np.average([a.power, b.power], weights=[len(a.error), len(b.error)])
        errors[name] = LocalError(both, float(power))
    return LocalErrors(one.layers, errors)


def correct_by_local_errors(
    model: ir.Model, params: Parameters, found: LocalErrors
) -> tuple[Parameters, tuple[Correction, ...]]:
    """Return parameters with corrected biases, and one entry a layer.

    A correction is kept only where it helps on feeds it was not taken from.

    Args:
        model: The prepared float model.
        params: The parameters.
        found: The errors on at least two feeds.
    """
    layers = dict(params.layers)
    report = []
    for name, measured in found.errors.items():
        delta = cross_validated(measured.error)
        gain = delta.gain / max(measured.power, 1e-30)
        report.append(Correction(name, gain > 0, gain))
        if gain > 0:
            layers[name] = with_bias(
                layers[name], model, found.layers[name], delta.delta.astype(np.float32)
            )
    return replace(params, layers=layers), tuple(report)
