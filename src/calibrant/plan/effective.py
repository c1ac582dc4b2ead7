"""What holds for each node: the rules that match it, merged in order, within the device's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from calibrant.errors import ConfigValueError, Problems
from calibrant.graph.ops import RECURRENT, operators_of
from calibrant.graph.passes.fuse_batchnorm import check_foldable
from calibrant.graph.targets import Target
from calibrant.plan.compensation import COMPENSATED, places
from calibrant.plan.conditions import applies
from calibrant.plan.fit import check_mapped, fitting
from calibrant.plan.match import Edges, an, at, match_rule
from calibrant.plan.widths import within_widths
from calibrant.recipe import (
    AlgorithmChoice,
    InputOf,
    Layer,
    LayerInput,
    Limit,
    Note,
    OpType,
    Recipe,
    Rule,
    Settings,
    Subgraph,
)
from calibrant.recipe.words import value_words

__all__ = ["DEFAULTS", "Chosen", "Effective"]

#: Node, one of its inputs or None, and its candidates -> the one that it takes.
Chosen = Callable[[str, int | None, tuple[Settings, ...]], Settings]

#: What holds where no rule says otherwise.
DEFAULTS = Settings(
    compute="int",
    activation=AlgorithmChoice("auto"),
    activation_bits=8,
    activation_symmetric=False,
    activation_per_channel=False,
    weight=AlgorithmChoice("auto"),
    weight_bits=8,
    weight_per_channel=True,
)


class Effective:
    """The settings of every node of a model, and which rule decided them.

    Args:
        recipe: What is wanted.
        model: A prepared model.
        target: The device.
        notes: Gets what gives way to a limit, or matches nothing.
        chosen: Says which of its candidates a node takes. It is laid over the settings of the rule that lists
            it; later rules stand over it, and limits hold for it. Without it none is taken.

    Raises:
        ConfigValueError: Rules name what the model does not have, or require what the device cannot do; all of
            them, in one error.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: ir.Model,
        target: Target,
        notes: list[Note],
        chosen: Chosen | None = None,
    ) -> None:
        """Match every rule."""
        self._recipe, self._notes, self._chosen = recipe, notes, chosen
        self._target = target
        self._base = replace(DEFAULTS, activation_symmetric=target.symmetric)
        self._known: dict[tuple[str, int | None], tuple[Settings, dict[str, str]]] = {}
        self._nodes = {node.name or "": node for node in model.graph}
        self.matched: list[tuple[Rule, Edges]] = []
        problems = Problems()
        for rule in recipe.rules:
            with problems.caught():
                edges = match_rule(rule, model, notes)
                _check_required(rule, edges, self._nodes, target)
                _check_compensation(rule, edges, self._nodes)
                check_mapped(rule, edges, self._nodes)
                self.matched.append((rule, edges))
        with problems.caught():
            fusion = recipe.fusion
            check_foldable(model, fusion.skip, fusion.origin, fusion.skippable)
        with problems.caught():
            _check_sources(recipe, model)
        with problems.caught():
            _check_exclusive(self.matched)
        problems.check()

    def of(self, node: ir.Node, index: int | None = None) -> tuple[Settings, dict[str, str]]:
        """Return the settings of a node, or of one of its inputs, and what decided each field."""
        key = (node.name or "", index)
        if key not in self._known:
            self._known[key] = self._merge(node, index)
        return self._known[key]

    def extra_inputs(self) -> tuple[tuple[str, int], ...]:
        """Return inputs (node, index) that are quantized whatever the target says, each once.

        Those are inputs of which a rule of their own speaks, and those that are compensated.
        """
        found: dict[tuple[str, int], None] = {}
        for rule, edges in self.matched:
            for name, index in sorted(edges, key=str):
                node = self._nodes[name]
                if index is not None and _speaks_of_one(rule, node):
                    wanted = self.of(node, index)[0].compute == "int"
                    found |= {(name, index): None} if wanted else {}
                elif rule.settings.compensation:
                    inputs = COMPENSATED.get(node.op_type, ()) if index is None else (index,)
                    found |= {(name, i): None for i in inputs if self._is_compensated(node, i)}
        return tuple(found)

    def _is_compensated(self, node: ir.Node, index: int) -> bool:
        if index >= len(node.inputs):
            return False
        settings, _ = self.of(node, index)
        return settings.compute == "int" and bool(settings.compensation)

    def note_unheard(self, quantized: set[tuple[str, int]], target: Target) -> None:
        """Note the rules that ask for widths or integers where nothing is quantized.

        Args:
            quantized: Inputs (node, index) that are quantized.
            target: The device.
        """
        nodes = {name for name, _ in quantized}
        for rule, edges in self.matched:
            s = rule.settings
            asks = s.compute == "int" or s.activation_bits or s.weight_bits or s.compensation
            if (
                rule.force == "implied"
                or s.compute in ("float16", "float32")
                or not asks
                or not edges
            ):
                continue
            if not any((n in nodes) if i is None else ((n, i) in quantized) for n, i in edges):
                message = f"Target '{target.name}' quantizes nothing of {rule.where}."
                self._notes.append(Note(rule.origin or str(rule.where), message))

    def skipped(self, layers: Iterable[str]) -> bool:
        """Say whether one of these layers stays in float because a rule requires it."""
        return any(self._decides_float(name) for name in layers)

    def wished_float(self, layers: Iterable[str]) -> str | None:
        """Return the place of the rule that wants every one of these layers in float; None if one is not wanted so."""
        rules = [self._float_rule(name) for name in layers]
        if not rules or any(rule is None or rule.force == "implied" for rule in rules):
            return None
        return next(rule.place("compute") for rule in rules if rule is not None)

    def _decides_float(self, name: str) -> bool:
        rule = self._float_rule(name)
        return rule is not None and rule.force == "required"

    def _float_rule(self, name: str) -> Rule | None:
        """Return the rule that decides that a layer is left in float, if one does."""
        said = [
            rule
            for rule, edges in self.matched
            if rule.settings.compute is not None and (name, None) in edges
        ]
        return said[-1] if said and said[-1].settings.compute != "int" else None

    def _merge(self, node: ir.Node, index: int | None) -> tuple[Settings, dict[str, str]]:
        deciders: dict[str, Rule] = {}
        matching = [
            rule
            for rule, edges in self.matched
            if (node.name, None) in edges or (index is not None and (node.name, index) in edges)
        ]
        said: dict[str, Any] = {}
        for rule in self._with_candidate(matching, node, index):
            said |= dict(rule.settings.items())
            deciders |= {name: rule for name, _ in rule.settings.items()}
        if self._chosen is not None:
            said["candidates"] = None
        settings = replace(self._base, **said)
        for limit in self._recipe.limits:
            if applies(limit, node, index):
                settings = self._within(limit, settings, deciders, node)
        settings = within_widths(settings, deciders, node, index, self._target, self._notes)
        settings = fitting(settings, deciders, node, self._notes)
        if settings.compensation and index not in (None, *COMPENSATED.get(node.op_type, ())):
            settings = replace(settings, compensation=False)
        origin = {name: rule.place(name) for name, rule in deciders.items()}
        return settings, origin

    def _with_candidate(self, rules: list[Rule], node: ir.Node, index: int | None) -> list[Rule]:
        """Return the rules of a node with the candidate it takes behind the one that lists it."""
        listing = max(
            (n for n, rule in enumerate(rules) if rule.settings.candidates is not None), default=-1
        )
        listed = rules[listing].settings.candidates if listing >= 0 else None
        if self._chosen is None or not listed:
            return rules
        candidate = self._chosen(node.name or "", index, listed)
        taken = replace(rules[listing], settings=candidate)
        return [*rules[: listing + 1], taken, *rules[listing + 1 :]]

    def _within(
        self, limit: Limit, settings: Settings, deciders: dict[str, Rule], node: ir.Node
    ) -> Settings:
        """Return the settings with one field brought within a limit."""
        value = getattr(settings, limit.setting)
        if value is None or limit.allows(value):
            return settings
        rule = deciders.get(limit.setting)
        nearest = limit.nearest(value)
        if rule is not None and settings.compute == "int":
            where = rule.place(limit.setting)
            what = (
                f"{limit.setting.replace('_', ' ')} is {value_words(value)} for {an(node.op_type)}"
            )
            if rule.force == "required":
                if limit.setting == "compute":
                    raise ConfigValueError(
                        f"{where}: {an(node.op_type)} is not quantized where {limit.reason}, as in layer {node.name}"
                    )
                allowed = " or ".join(map(value_words, limit.allowed))
                raise ConfigValueError(
                    f"{where}: {what}, but {limit.reason}: it is {allowed} in layer {node.name}"
                )
            instead = value_words(nearest)
            note = Note(where, f"{what}, but {limit.reason}: {instead} in layer '{node.name}'.")
            if rule.force in ("wished", "granted") and note not in self._notes:
                self._notes.append(note)
        return replace(settings, **{limit.setting: nearest})


def _speaks_of_one(rule: Rule, node: ir.Node) -> bool:
    """Say whether a rule asks for a certain input of a node in integers.

    A width alone asks for it where an operator samples (Resize, GridSample): elsewhere it says how wide an
    input is if the target quantizes it.
    """
    where, said = rule.where, rule.settings
    if isinstance(where, LayerInput) and said.compute == "int":
        return True
    of_type = isinstance(where, InputOf) and isinstance(where.nodes, OpType)
    sampled = node.op_type in ("Resize", "GridSample") and rule.force != "implied"
    speaks = isinstance(where, LayerInput) or of_type
    return speaks and sampled and said.activation_bits is not None


def _check_sources(recipe: Recipe, model: ir.Model) -> None:
    """Refuse data for another number of inputs than the model has."""
    sources, inputs = recipe.calibration.sources, model.graph.inputs
    if sources and len(sources) != len(inputs):
        raise ConfigValueError(
            f"The configuration names data for {len(sources)} inputs, and the model has {len(inputs)} "
            f"({', '.join(v.name or '' for v in inputs)})."
        )


def _check_required(rule: Rule, edges: Edges, nodes: dict[str, ir.Node], target: Target) -> None:
    """Refuse a layer of its own rule that the target does not quantize."""
    if rule.force != "required" or not isinstance(rule.where, Layer | OpType):
        return
    taken = target.anchors | RECURRENT
    others = [n for n, _ in edges if nodes[n].op_type not in taken]
    listed = f"{', '.join(sorted(taken))} are."
    if others and len(others) == len(edges):
        name = sorted(others)[0]
        raise ConfigValueError(
            f"{at(rule.origin)}layer '{name}' is {an(nodes[name].op_type)}, which is not quantized; {listed}"
        )
    if (
        isinstance(rule.where, OpType)
        and not edges
        and not taken & {*operators_of(rule.where.name)}
    ):
        raise ConfigValueError(
            f"{at(rule.origin)}type '{rule.where.name}' is not quantized; {listed}"
        )


def _check_compensation(rule: Rule, edges: Edges, nodes: dict[str, ir.Node]) -> None:
    if not rule.settings.compensation:
        return
    for name, index in sorted(edges, key=str):
        allowed = COMPENSATED.get(nodes[name].op_type, ())
        if not allowed or index not in (None, *allowed):
            raise ConfigValueError(
                f"{at(rule.origin)}{'' if index is None else f'input {index} of '}node '{name}' "
                f"({nodes[name].op_type}) has no place for error compensation. Places: {places()}."
            )


def _check_exclusive(matched: Sequence[tuple[Rule, Edges]]) -> None:
    """Refuse two subgraphs that share a node and disagree about it."""
    inside = [
        (rule, rule.where, {n for n, _ in edges})
        for rule, edges in matched
        if isinstance(rule.where, Subgraph) and rule.where.exclusive
    ]
    for i, (rule, where, nodes) in enumerate(inside):
        for other, elsewhere, others in inside[:i]:
            shared = nodes & others
            if where.name == elsewhere.name or not shared:
                continue
            said, before = dict(rule.settings.items()), dict(other.settings.items())
            field = next((f for f in said if f in before and said[f] != before[f]), None)
            if field is not None:
                raise ConfigValueError(
                    f"{at(rule.origin)}node '{sorted(shared)[0]}' is in subgraph '{where.name}', where "
                    f"{field} is {said[field]}, and in '{elsewhere.name}', where it is {before[field]}."
                )
