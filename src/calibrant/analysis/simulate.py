"""Run the simulated quantized model with one set of parameters after another.

Opening a session costs as much as running some forty samples of a small network. Scales and zero points, and
weights that take over the scales of channels, are inputs of what is run (`emit.parametric`); so parameters that
differ in nothing else are runs of one session.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.emit.parametric import Parametric, emit_parametric, form_of, visible_biases
from calibrant.graph.values import drop_weights
from calibrant.plan import Plan
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import with_outputs

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Simulator", "is_light", "taking_scales"]

Array = npt.NDArray[Any]

#: Sessions that are kept open: so many, or two where weights have so many bytes, since each has a copy of them.
KEPT = 3
KEPT_BYTES = 64 * 2**20

#: Parameters whose session and inputs are remembered.
REMEMBERED = 4


def taking_scales(plan: Plan) -> frozenset[str]:
    """Return the layers whose weights take over the scales of their input's channels."""
    return frozenset(n for d in plan.activations if d.folded for n, _ in d.users)


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """A session, and what it stands for."""

    form: tuple[object, ...]
    made: Parametric
    layers: Mapping[str, LayerParameters]
    session: ort.InferenceSession

    def fits(self, form: tuple[object, ...], params: Parameters, biases: frozenset[str]) -> bool:
        """Whether parameters of a plan of this form differ in nothing but inputs."""
        same = form == self.form and biases <= self.made.biases
        return same and _same_layers(self.layers, params.layers, self.made.free)


#: A session, its inputs, and those of them that stand for parameters.
_Ready = tuple[_Open, frozenset[str], dict[str, Array]]


@dataclass(slots=True, eq=False)
class Simulator:
    """Simulated quantized models of one float model.

    Args:
        model: The prepared float model.
        outputs: Tensors to return.
        runtime: Where it runs.
        opened: How many sessions were opened.
    """

    model: ir.Model
    outputs: tuple[str, ...]
    runtime: Runtime = CPU
    opened: int = 0
    _sessions: list[_Open] = field(default_factory=list)
    _recent: list[tuple[Plan, Parameters, _Ready]] = field(default_factory=list)

    def simulate(
        self, plan: Plan, params: Parameters, feeds: Sequence[Mapping[str, Array]]
    ) -> list[dict[str, Array]]:
        """Return the outputs for each feed.

        Raises:
            ModelError: ONNX Runtime cannot load or run the model.
        """
        found, inputs, numbers = self._numbers(plan, params)
        names = [o.name for o in found.session.get_outputs()]
        outputs = []
        for feed in feeds:
            fed = {n: x for n, x in feed.items() if n in inputs}
            values = infer(found.session, names, fed | numbers)
            outputs.append(dict(zip(names, values, strict=True)))
        return outputs

    def close(self) -> None:
        """Let go of what is open; it is opened again where it is asked for."""
        self._sessions.clear()
        self._recent.clear()

    def _numbers(self, plan: Plan, params: Parameters) -> _Ready:
        """Return the session of parameters, its inputs, and what the parameters put into them."""
        for a, b, ready in self._recent:
            if a is plan and b is params:
                return ready
        found = self._session(plan, params)
        inputs = frozenset(i.name for i in found.session.get_inputs())
        numbers = {n: x for n, x in found.made.feeds(params).items() if n in inputs}
        ready = found, inputs, numbers
        self._recent = [(plan, params, ready), *self._recent][:REMEMBERED]
        return ready

    def _session(self, plan: Plan, params: Parameters) -> _Open:
        form, biases = form_of(plan), visible_biases(self.model, plan, params)
        for known in self._sessions:
            if known.fits(form, params, biases):
                return known
        emitted, made = emit_parametric(
            self.model, plan, params, free=taking_scales(plan) & params.layers.keys()
        )
        exposed = with_outputs(emitted, self.outputs)
        del self._sessions[_kept(self.model) - 1 :]
        left = {id(s) for s in self._sessions}
        self._recent = [r for r in self._recent if id(r[2][0]) in left]
        session = open_session(exposed, integers=False, runtime=self.runtime)
        drop_weights(exposed)
        self.opened += 1
        opened = _Open(form, made, params.layers, session)
        self._sessions = [opened, *self._sessions]
        return opened


def is_light(model: ir.Model) -> bool:
    """Whether a model has so few bytes of weights that sessions of it may stay open."""
    weights = (v.const_value for v in model.graph.initializers.values())
    return sum(w.nbytes for w in weights if w is not None) < KEPT_BYTES


def _kept(model: ir.Model) -> int:
    """Return how many sessions of forms of a model are kept open."""
    return KEPT if is_light(model) else 2


def _same_layers(
    one: Mapping[str, LayerParameters], other: Mapping[str, LayerParameters], free: Collection[str]
) -> bool:
    return one.keys() == other.keys() and all(
        _same_layer(one[n], other[n], weight=n not in free) for n in one
    )


def _same_layer(a: LayerParameters, b: LayerParameters, *, weight: bool) -> bool:
    """Whether two layers have the same bias and, where it counts, the same weight."""
    return a is b or (_equal(a.bias, b.bias) and (not weight or _same_weight(a, b)))


def _same_weight(a: LayerParameters, b: LayerParameters) -> bool:
    """Whether integers stand for the same numbers; the scale of a channel of zeros says nothing."""
    if a.weight.axis != b.weight.axis or not _equal(a.stored, b.stored):
        return False
    if not _equal(a.residual, b.residual):
        return False
    return _equal(a.weight.scale, b.weight.scale) or np.array_equal(a.floats, b.floats)


def _equal(a: Array | None, b: Array | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
