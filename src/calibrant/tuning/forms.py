"""The forms of a model that candidates are made of: plain, equalised, and with balanced layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.better import TOLERATED_DB
from calibrant.analysis.probe import Probe
from calibrant.errors import DataError
from calibrant.graph.passes.balance import (
    Balanced,
    balance,
    balance_factors,
    channel_axis,
    weight_magnitudes,
)
from calibrant.graph.passes.equalize import Equalized, equalize, limited
from calibrant.graph.passes.pairs import find_pairs
from calibrant.plan import Plan, resolve
from calibrant.recipe import Recipe
from calibrant.runtime.observe import channel_magnitudes
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats
from calibrant.tuning.expected import gains, pays
from calibrant.tuning.extent import affordable_samples

__all__ = ["Form", "balance_as_asked", "forms"]

#: Largest magnitude of each channel (channels,).
Magnitudes = npt.NDArray[np.float64]

#: Channels are made even where a layer is expected to gain so much, or all together as much as is seen in some task [dB].
WORTH_DB = 3.0

#: A layer's input is balanced where its largest channel is so many times the median one.
UNEVEN = 8.0

#: Channel magnitudes are taken from so many samples of the probe, and from so many where tensors are large.
EQUALIZE_SAMPLES, LEAST_EQUALIZE_SAMPLES = 32, 8


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A model to choose from: what was done to its channels, and its plan.

    Args:
        name: `plain`, `equalized` or `balanced`.
        model: The float model.
        plan: Its plan.
        equalized: Tensors that were equalised.
        balanced: Muls that were put in.
        like: Name of a form in which tensors of the same name have the same values; empty for none.
    """

    name: str
    model: ir.Model
    plan: Plan
    equalized: tuple[Equalized, ...] = ()
    balanced: tuple[Balanced, ...] = ()
    like: str = ""


def forms(
    plain: Form,
    recipe: Recipe,
    probe: Probe,
    runtime: Runtime = CPU,
    seen: Callable[[Mapping[str, int], int], Mapping[str, Magnitudes]] | None = None,
    statistics: Callable[[str], TensorStats | None] = lambda _: None,
) -> list[Form]:
    """Return the plain model, the equalised one, and the equalised one with balanced layers.

    Args:
        plain: The plain model.
        recipe: What is wanted.
        probe: Samples that tell how large channels are.
        runtime: Where the model runs.
        seen: Says of some tensors, by their channel axes, how large their channels are, where somebody looks at them in
            any case, and on so many samples. The others are looked at here.
        statistics: Says what was seen of a tensor besides; a layer of which it then can be told that balancing makes it
            worse is not balanced.
    """
    model, plan = plain.model, plain.plan
    if recipe.equalize == "off" or not plan.target.equalize:
        return [plain]
    quantized = {d.tensor for d in plan.activations}
    pairs = [p for p in find_pairs(model) if p.tensor in quantized]
    axes = {p.tensor: p.axis for p in pairs}
    inputs = _balanceable(model, plan, exclude=set(axes))
    every = axes | {t: axis for t, (axis, _) in inputs.items()}
    samples = _affordable(model, every, probe)
    magnitudes = dict(seen(every, samples)) if every and seen is not None else {}
    missing = {t: axis for t, axis in every.items() if t not in magnitudes}
    looked_at = probe.part(samples).small if missing else []
    magnitudes |= channel_magnitudes(model, missing, looked_at, runtime=runtime)
    found = [plain]
    if pairs:
        changed = model.clone()
        done = tuple(equalize(changed, pairs, magnitudes))
        if done and (
            recipe.equalize == "on" or _promises(plain, changed, done, magnitudes, statistics)
        ):
            found.append(Form("equalized", changed, plan, done, plain.balanced))
    if recipe.equalize == "on":
        return found[-1:]
    base = found[-1]
    changed = base.model.clone()
    balanced = []
    for tensor, (_, layers) in inputs.items():
        x = magnitudes[tensor]
        factors = _even_factors(changed, x, layers, tiny_to_one=plan.tiny_to_one)
        stats = statistics(tensor) if factors is not None else None
        if factors is not None and (
            stats is None or pays(changed, plan, layers, x, factors, stats)
        ):
            balanced.append(balance(changed, tensor, layers, factors))
    if balanced:
        found.append(
            Form(
                "balanced",
                changed,
                resolve(recipe, changed),
                equalized=base.equalized,
                balanced=(*plain.balanced, *balanced),
                like=base.name,
            )
        )
    return found


def _promises(
    plain: Form,
    changed: ir.Model,
    done: Sequence[Equalized],
    magnitudes: Mapping[str, Magnitudes],
    statistics: Callable[[str], TensorStats | None],
) -> bool:
    """Whether even channels are expected to be worth something: to some layer, or to all of them together."""
    factors = {e.tensor: np.asarray(e.factors) for e in done}
    found = gains(plain.model, changed, plain.plan, magnitudes, factors, statistics)
    if found is None:
        return True
    return found.of_all >= TOLERATED_DB or found.of_one >= WORTH_DB


def _affordable(model: ir.Model, tensors: Collection[str], probe: Probe) -> int:
    """Return from how many samples channel magnitudes are taken."""
    size, most, least = probe.small[0].size, EQUALIZE_SAMPLES, LEAST_EQUALIZE_SAMPLES
    return affordable_samples(model, list(tensors), size, most=most, least=least)


def _balanceable(
    model: ir.Model, plan: Plan, *, exclude: set[str]
) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Quantized tensors that only layers with weights read quantized: tensor -> (axis, layers).

    Layers for which the recipe gives a strength are balanced by it already.
    """
    found = {}
    asked = {d.node for d in plan.layers if d.settings.balance is not None}
    weights = {w.layer for w in plan.weights}
    for d in plan.activations:
        layers = tuple(node for node, _ in d.users)
        if d.tensor in exclude or d.producer is not None or d.fixed_range is not None:
            continue
        if not layers or any(i != 0 or n not in weights or n in asked for n, i in d.users):
            continue
        nodes = [model.graph.node(n) for n in layers]
        axes = {channel_axis(n) for n in nodes}
        if len(axes) == 1 and all(weight_magnitudes(n) is not None for n in nodes):
            found[d.tensor] = (axes.pop(), layers)
    return found


def _even_factors(
    model: ir.Model,
    x: npt.NDArray[np.float64],
    layers: tuple[str, ...],
    *,
    tiny_to_one: bool,
) -> npt.NDArray[np.float64] | None:
    """Factors for layers whose input has a few channels far above the others; None for others."""
    weights = [weight_magnitudes(model.graph.node(n)) for n in layers]
    w = np.max([v / max(float(v.max()), 1e-30) for v in weights if v is not None], axis=0)
    alive = (x > 0) & (w > 0)
    if x.size != w.size or not alive.any() or x.max() < UNEVEN * np.median(x[alive]):
        return None
    try:
        return limited(balance_factors(x, w, tiny_to_one=tiny_to_one), alive)
    except DataError:  # too uneven: nobody asked for it, so the layer is left
        return None


def balance_as_asked(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    probe: Probe,
    runtime: Runtime = CPU,
    given: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> tuple[ir.Model, Plan, tuple[Balanced, ...]]:
    """Balance the layers for which the recipe gives a strength.

    Args:
        model: The prepared float model; it is not changed.
        plan: Where quantizers stand in it.
        recipe: What is wanted.
        probe: Samples that tell how large channels are.
        runtime: Where the model runs.
        given: Layer -> factors that are known already.

    Raises:
        DataError: The channels of a layer are too uneven; the message names it.
    """
    asked = {d.node: d.settings.balance for d in plan.layers if d.settings.balance is not None}
    asked = {
        n: a for n, a in asked.items() if any(d.node == n and d.quantized for d in plan.layers)
    }
    if not asked:
        return model, plan, ()
    changed = model.clone()
    tensors: dict[str, str] = {}
    passes: list[dict[str, int]] = []  # tensor -> axis; a Conv and a MatMul may read one tensor
    of_pass = {}
    for name in asked:
        node = changed.graph.node(name)
        assert node.inputs[0] is not None
        tensor, axis = node.inputs[0].name or "", channel_axis(node)
        tensors[name] = tensor
        fitting = (i for i, axes in enumerate(passes) if axes.get(tensor, axis) == axis)
        of_pass[name] = next(fitting, len(passes))
        if of_pass[name] == len(passes):
            passes.append({})
        passes[of_pass[name]][tensor] = axis
    count = recipe.calibration.balance_batches
    seen = probe.small if count is None else probe.batches[:count]
    magnitudes = [channel_magnitudes(model, axes, seen, runtime=runtime) for axes in passes]
    done = []
    for name, strength in asked.items():
        w = weight_magnitudes(changed.graph.node(name))
        assert w is not None
        assert strength is not None
        try:
            x = magnitudes[of_pass[name]][tensors[name]]
            factors = (
                given[name].astype(np.float64)
                if given is not None and name in given
                else balance_factors(x, w, strength, tiny_to_one=plan.tiny_to_one)
            )
        except DataError as e:
            raise DataError(f"Layer '{name}' cannot be balanced: {e}") from e
        made = balance(changed, tensors[name], [name], factors)
        done.append(replace(made, asked=True))
    return changed, resolve(recipe, changed), tuple(done)
