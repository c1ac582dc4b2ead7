"""What can be done about a quantizer: each move is settings for the inputs that read it, and what these ask of the device."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from calibrant.diagnose.advice.units import Unit
from calibrant.graph.targets import Target
from calibrant.plan import Plan
from calibrant.recipe import AlgorithmChoice, AllNodes, Layer, LayerInput, Rule, Settings

__all__ = ["MOVES", "Move", "algorithms_for", "rules_for"]

#: Where the rules of a step come from, in messages.
ORIGIN = "advice"


@dataclass(frozen=True, slots=True)
class Move:
    """One way to change quantizers.

    Args:
        name: As steps name it.
        done: What it does, a clause.
        price: Place among others by what it asks of the device; 0 for nothing.
        costs: What it asks, in words.
        activation: Settings for an activation; None where it does nothing there.
        weight: Settings for a weight; None where it does nothing there.
        of: What its rules are for: inputs that read the quantizer, `nodes` around it, or `layers` with a weight.
        sets: It is tried on several quantizers at once, too.
    """

    name: str
    done: str
    price: int
    costs: str
    activation: Settings | None = None
    weight: Settings | None = None
    of: Literal["inputs", "nodes", "layers"] = "inputs"
    sets: bool = False

    def fits(self, unit: Unit, plan: Plan, target: Target) -> bool:
        """Whether it would change a quantizer, and the target takes it."""
        settings = self.activation if unit.kind == "activation" else self.weight
        if settings is None:
            return False
        bits = settings.activation_bits or settings.weight_bits
        if unit.kind == "weight":
            weight = plan.weight_of(unit.layers[0])
            if weight is None or (bits is not None and bits not in target.weight_bits):
                return False
            if settings.weight_per_channel:
                return weight.spec.axis is None
            return bits is None or weight.spec.bits < bits
        decisions = [d for e in unit.edges if (d := plan.at(e)) is not None]
        if not decisions or (bits is not None and bits not in target.activation_bits):
            return False
        if settings.activation_per_channel:
            return any(d.spec.axis is None for d in decisions)
        if settings.activation is not None:
            return any(d.algorithm != settings.activation for d in decisions)
        if settings.balance:
            weights = {w.layer for w in plan.weights}
            return all(n in weights for n in unit.layers) and set(unit.layers) <= set(unit.nodes)
        return bits is None or any(d.spec.bits < bits for d in decisions)


_CHANNELS = "scales by channel, which integer kernels may not take"

#: In the order in which they are tried.
MOVES = (
    Move(
        "per-channel",
        "one scale a channel",
        2,
        _CHANNELS,
        activation=Settings(activation_per_channel=True),
        weight=Settings(weight_per_channel=True),
        sets=True,
    ),
    Move(
        "int16",
        "16 bits",
        3,
        "16 bits in the place of 8",
        activation=Settings(activation_bits=16),
        weight=Settings(weight_bits=16),
        sets=True,
    ),
    Move(
        "balance",
        "channels balanced between the input and the weight",
        1,
        "a multiplication in front of the layer, unless it can be folded",
        activation=Settings(balance=0.5),
        of="layers",
    ),
    Move(
        "float32",
        "left in float",
        4,
        "float arithmetic",
        activation=Settings(compute="float32"),
        weight=Settings(compute="float32"),
        of="nodes",
        sets=True,
    ),
)

#: Algorithms that are tried for an activation, by cause: those that keep more of the range, or less of it.
_WIDER = (AlgorithmChoice("min-max"), AlgorithmChoice("mse"))
_NARROWER = (AlgorithmChoice("mse"), AlgorithmChoice("percentile"), AlgorithmChoice("kl"))


def algorithms_for(cause: str) -> Iterator[Move]:
    """Yield another algorithm for an activation, by what is wrong with its range."""
    for choice in _WIDER if cause == "clipping" else _NARROWER:
        yield Move(
            "algorithm",
            f"range by {choice.name}",
            0,
            "",
            activation=Settings(activation=choice),
        )


def rules_for(move: Move, units: Sequence[Unit], *, every: bool = False) -> tuple[Rule, ...]:
    """Return the rules of a move.

    Args:
        move: What is done.
        units: Quantizers.
        every: These are all there are, so one rule for all nodes says it.
    """
    if every:
        kinds = {u.kind for u in units}
        found = [s for k in ("activation", "weight") if k in kinds and (s := _of(move, k))]
        return tuple(Rule(AllNodes(), s, ORIGIN) for s in dict.fromkeys(found))
    if move.of != "inputs" or len(units) > 1:
        rules = [
            Rule(Layer(glob.escape(n)), settings, ORIGIN)
            for kind in ("activation", "weight")
            if (settings := _of(move, kind)) is not None
            for u in units
            if u.kind == kind
            for n in _nodes(move, u)
        ]
        return tuple(dict.fromkeys(rules))
    (unit,) = units
    settings = _of(move, unit.kind)
    assert settings is not None
    if unit.kind == "weight":
        return (Rule(Layer(glob.escape(unit.layers[0])), settings, ORIGIN),)
    return tuple(Rule(LayerInput(n, i), settings, ORIGIN) for n, i in unit.edges)


def _of(move: Move, kind: str) -> Settings | None:
    return move.activation if kind == "activation" else move.weight


def _nodes(move: Move, unit: Unit) -> tuple[str, ...]:
    """Return the nodes whose settings change a quantizer."""
    if move.of == "layers":
        return unit.layers
    return (*unit.layers, *unit.nodes) if move.of == "nodes" else unit.nodes
