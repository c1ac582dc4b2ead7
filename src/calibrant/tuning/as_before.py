"""A plan with some layers raised, all else chosen as in the plan before.

Resolving a recipe again, with rules that raise some layers, forgets what was chosen meanwhile: by a search, or where
the recipe says `auto`. What was chosen at an input of a node is found there again: algorithm, symmetry, scales by
channel and what becomes of them, and the width, where its node is not one of the raised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from calibrant.plan import ActivationDecision, Edge, LayerDecision, Plan, WeightDecision
from calibrant.plan.roles import codebook

__all__ = ["as_before"]

#: Settings that say how the range of an activation is chosen.
_CHOSEN = ("activation", "activation_symmetric", "activation_per_channel")


def as_before(new: Plan, before: Plan, raised: Collection[str]) -> Plan:
    """Return a plan with what was chosen in the one before, but for the widths of raised layers.

    Args:
        new: The plan with raised layers.
        before: A plan of the same model.
        raised: Names of the layers.
    """
    at = {e: d for d in before.activations for e in d.users}
    made = {d.producer: d for d in before.activations if d.producer is not None}
    weights = {w.layer: w for w in before.weights}
    layers = {d.node: d for d in before.layers}
    return replace(
        new,
        half=(*before.half, *(n for n in new.half if n not in before.half)),
        notes=(*before.notes, *(n for n in new.notes if n not in before.notes)),
        activations=_named([p for d in new.activations for p in _parts(d, at, made, raised)]),
        weights=tuple(_weight(w, weights.get(w.layer), w.layer in raised) for w in new.weights),
        layers=tuple(_layer(d, layers.get(d.node)) for d in new.layers),
    )


def _parts(
    d: ActivationDecision,
    at: Mapping[Edge, ActivationDecision],
    made: Mapping[str, ActivationDecision],
    raised: Collection[str],
) -> list[ActivationDecision]:
    """Return a quantizer as it was before: several, where its readers had several."""
    if d.producer is not None:  # one for all readers
        old = at.get(d.users[0]) if d.users else made.get(d.producer)
        return [_activation(d, old, d.spec.bits)]
    readers: dict[tuple[str, bool], list[Edge]] = {}
    for edge in d.users:
        key = (at[edge].id if edge in at else "", edge[0] in raised)
        readers.setdefault(key, []).append(edge)
    parts = []
    for (_, wide), edges in readers.items():
        old = at.get(edges[0])
        bits = d.spec.bits if wide or old is None else old.spec.bits
        parts.append(_activation(replace(d, users=tuple(edges)), old, bits))
    return parts


def _activation(
    d: ActivationDecision, old: ActivationDecision | None, bits: int
) -> ActivationDecision:
    if old is None or old.tensor != d.tensor:
        return d
    same = old.spec.bits == bits
    return replace(
        d,
        algorithm=old.algorithm,
        spec=replace(old.spec, bits=bits),
        group=old.group if same else f"{old.group}|{bits}",
        origin=_origin(d.origin, old.origin),
        folded=old.folded,
        channels=old.channels,
        compensation=old.compensation and same,
    )


def _named(decisions: list[ActivationDecision]) -> tuple[ActivationDecision, ...]:
    """Join the quantizers of a tensor that are equal, and give each a name of its own."""
    kept: dict[object, ActivationDecision] = {}
    for d in decisions:
        key = (d.tensor, d.producer, d.spec, d.algorithm, d.group, d.folded, d.compensation)
        first = kept.setdefault(key, d)
        if first is not d:
            kept[key] = replace(first, users=(*first.users, *d.users))
    count: dict[str, int] = {}
    named = []
    for d in kept.values():
        n = count[d.tensor] = count.get(d.tensor, 0) + 1
        named.append(replace(d, id=d.tensor if n == 1 else f"{d.tensor}#{n}"))
    return tuple(named)


def _weight(w: WeightDecision, old: WeightDecision | None, raised: bool) -> WeightDecision:
    if old is None or not raised:
        return old or w
    if codebook(old.algorithm) is not None:
        return w  # a few levels are levels of 8 bits
    return replace(w, algorithm=old.algorithm, spec=replace(old.spec, bits=w.spec.bits))


def _layer(d: LayerDecision, old: LayerDecision | None) -> LayerDecision:
    if old is None:
        return d
    chosen = {name: getattr(old.settings, name) for name in _CHOSEN}
    return replace(d, settings=replace(d.settings, **chosen), origin=_origin(d.origin, old.origin))


def _origin(new: Mapping[str, str], old: Mapping[str, str]) -> dict[str, str]:
    """Return who decided: of how ranges are chosen as before, of all else as now."""
    return {k: v for k, v in new.items() if k not in _CHOSEN} | {
        k: v for k, v in old.items() if k in _CHOSEN
    }
