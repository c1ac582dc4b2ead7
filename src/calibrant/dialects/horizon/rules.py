"""What the levels of a `quant_config` say, as rules.

| Of | Order, the last wins |
|---|---|
| types of nodes | defaults, `all_node_type`, op, subgraph, node |
| `activation`, field by field; bias correction | model, op, subgraph, node |
| types of inputs, over those of nodes | op, subgraph, node |

Source: docs/reference/horizon-configurations.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from calibrant.dialects.horizon.candidates import candidates, hints
from calibrant.dialects.horizon.schema import (
    PAIRED,
    SECTIONS,
    Activation,
    FineConfig,
    ModelConfig,
    SubgraphConfig,
    Weight,
)
from calibrant.errors import ConfigTypeError, ConfigValueError, Problems, did_you_mean
from calibrant.graph.ops import type_names
from calibrant.recipe import (
    AlgorithmChoice,
    AllNodes,
    AllOf,
    InputOf,
    Layer,
    LayerInput,
    Note,
    OpType,
    Rule,
    Settings,
    Subgraph,
    Where,
)
from calibrant.text.fields import read_section
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["Entry", "entries", "rules_of"]

_INPUT_TYPES = ("int8", "int16", "ec")

DEFAULTS = Settings(
    activation_symmetric=True,
    activation_per_channel=False,
    weight=AlgorithmChoice("max"),
    weight_per_channel=True,
    compensation=False,
    candidates=(),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a finer level.

    Args:
        where: The nodes it is for.
        at: Its key path.
        config: What it says of its nodes.
        inputs: What it says of single inputs: (index, type).
    """

    where: OpType | Subgraph | Layer
    at: KeyPath
    config: FineConfig
    inputs: tuple[tuple[int, str], ...]


def entries(document: Document, problems: Problems) -> list[Entry]:
    """Read the finer levels, coarse to fine; `problems` gets unknown operators, keys and values."""
    found = []
    for section in SECTIONS:
        for name, said in document.content.get(section, {}).items():
            with problems.caught():
                found.append(_entry_of(section, name, said, document, problems))
    return found


def _entry_of(
    section: Literal["op_config", "subgraph_config", "node_config"],
    name: str,
    said: dict[str, Any],
    document: Document,
    problems: Problems,
) -> Entry:
    at: KeyPath = (section, name)
    numbered = [k for k in said if k.startswith("input") and k[5:].isdigit()]
    inputs = []
    for k in numbered:
        with problems.caught():
            inputs.append((int(k[5:]), _input_type(said[k], document, (*at, k))))
    rest = {k: v for k, v in said.items() if k not in numbered}
    part = replace(document, content={section: {name: rest}})
    where: OpType | Subgraph | Layer = Layer(name)
    if section == "op_config":
        with problems.caught():
            _check_op(name, document.where(at))
        where = OpType(name)
    if section == "subgraph_config":
        graph = read_section(SubgraphConfig, part, at)
        where = Subgraph(name, tuple(graph.inputs), tuple(graph.outputs), exclusive=True)
        return Entry(where, at, graph, tuple(inputs))
    return Entry(where, at, read_section(FineConfig, part, at), tuple(inputs))


def _input_type(value: object, document: Document, at: KeyPath) -> str:
    if not isinstance(value, str):
        raise ConfigTypeError(f"{document.where(at)}: {path_text(at)} is {value!r}; it is a text.")
    if value not in _INPUT_TYPES:
        raise ConfigValueError(
            f"{document.where(at)}: {path_text(at)} is {value!r}; it is one of "
            f"{', '.join(_INPUT_TYPES)}." + did_you_mean(value, _INPUT_TYPES)
        )
    return value


def _check_op(name: str, where: str) -> None:
    """Refuse a near miss of an ONNX operator; other names may be operators of the model's own."""
    from onnx import defs

    known = {*(s.name for s in defs.get_all_schemas()), *type_names()}
    near = did_you_mean(name, known)
    if name not in known and near:
        raise ConfigValueError(f"{where}: op_config.{name} is no ONNX operator.{near}")


def rules_of(
    model: ModelConfig, finer: Sequence[Entry], document: Document, problems: Problems
) -> tuple[tuple[Rule, ...], tuple[Note, ...]]:
    """Return the rules in their order, and what to note.

    Args:
        model: What holds for the whole model.
        finer: The finer levels, coarse to fine.
        document: All of it, with places.
        problems: Gets too many candidates, and methods and types that stand where they may not.
    """
    notes: list[Note] = []
    name = Path(document.source).name
    rules = [Rule(AllNodes(), DEFAULTS, f"{name}: default", "implied")]
    at: KeyPath = ("model_config",)
    origin = _origin(document, (*at, "all_node_type"))
    whole = _rule(AllNodes(), Settings.of_precision(model.all_node_type), origin)
    said = document.content.get("model_config", {})
    if "all_node_type" not in said:
        whole = Rule(AllNodes(), whole.settings, f"{name}: default", "implied")
    rules.append(whole)
    for entry in finer:
        with problems.caught():
            if entry.config.qtype is not None:
                rules += _node_types(entry, _origin(document, (*entry.at, "qtype")))
    with problems.caught():
        whole_activation = model.activation
        rules.append(
            _activation(AllNodes(), whole_activation, whole_activation, document, at, notes)
        )
    rules += _activations(model.activation, finer, document, notes, problems)
    rules += _bias(AllNodes(), model.weight, document, at)
    for entry in finer:
        rules += _bias(entry.where, entry.config.weight, document, entry.at)
    for entry in finer:
        for index, qtype in entry.inputs:
            settings = _input_settings(qtype)
            where = _input_of(entry.where, index)
            origin = _origin(document, (*entry.at, f"input{index}"))
            rules.append(Rule(where, settings, origin, "granted"))
    return tuple(rules), tuple(dict.fromkeys(notes))


def _rule(where: Where, settings: Settings, origin: str) -> Rule:
    return Rule(where, settings, origin)


def _node_types(entry: Entry, origin: str) -> Iterator[Rule]:
    """Yield what a type of a node means for the node and its operands."""
    qtype = entry.config.qtype
    if qtype in ("dual-int16", "int16-ec"):
        _check_paired(entry.where, qtype, origin)
        yield _rule(entry.where, _input_settings("int16"), origin)
        for index, of_input in enumerate(("int16", "int16" if qtype == "dual-int16" else "ec")):
            where = _input_of(entry.where, index, PAIRED)
            yield Rule(where, _input_settings(of_input), origin, "granted")
    elif qtype == "ec":
        yield _rule(entry.where, Settings(compute="int").over(_input_settings("ec")), origin)
    elif qtype is not None:
        yield _rule(
            entry.where, Settings.of_precision(qtype).over(Settings(compensation=False)), origin
        )


def _check_paired(where: Where, qtype: str, origin: str) -> None:
    if isinstance(where, OpType) and where.name not in PAIRED:
        raise ConfigValueError(
            f"{origin} is {qtype}, which is for {', '.join(PAIRED)} alone, not for {where.name}."
        )


def _input_settings(qtype: str) -> Settings:
    """Return the width of an operand, whether it is an activation or a weight."""
    bits = 16 if qtype == "int16" else 8
    return Settings(activation_bits=bits, weight_bits=bits, compensation=qtype == "ec")


def _input_of(
    where: OpType | Subgraph | Layer, index: int, types: tuple[str, ...] = ()
) -> LayerInput | InputOf:
    if isinstance(where, Layer):
        return LayerInput(where.name, index, types)
    return InputOf(where, index)


# ---------------------------------------------------------------------------------------- activation


def _activations(
    model: Activation,
    finer: Sequence[Entry],
    document: Document,
    notes: list[Note],
    problems: Problems,
) -> Iterator[Rule]:
    """Yield a rule for each entry that says something of activations, laid over the coarser levels.

    Whether a node is of an operator or in a subgraph that says something too is known with the model alone;
    so there is a rule for each of these cases, for the nodes that are in both.
    """
    speaking = [e for e in finer if e.config.activation.model_fields_set]
    ops: list[Entry | None] = [None, *(e for e in speaking if isinstance(e.where, OpType))]
    graphs: list[Entry | None] = [None, *(e for e in speaking if isinstance(e.where, Subgraph))]
    for entry in speaking:
        coarser: Iterator[tuple[Entry | None, ...]] = iter([()])
        if isinstance(entry.where, Layer):
            coarser = product(graphs, ops)
        elif isinstance(entry.where, Subgraph):
            coarser = product(ops)
        for others in coarser:
            levels = [e for e in reversed(others) if e is not None]
            merged = model
            for level in (*levels, entry):
                merged = level.config.activation.over(merged)
            parts = tuple(e.where for e in (*levels, entry))
            where: Where = AllOf(parts) if levels else entry.where
            with problems.caught():
                yield _activation(
                    where, merged, entry.config.activation, document, entry.at, notes
                )


def _activation(
    where: Where,
    activation: Activation,
    written: Activation,
    document: Document,
    at: KeyPath,
    notes: list[Note],
) -> Rule:
    """Return the rule for a section: `activation` is it laid over the coarser levels, `written` is it alone."""
    origin = _origin(document, (*at, "activation"))
    methods = activation.values("calibration_type", ["default"])
    if methods in (["load"], ["skip"]) and not isinstance(where, AllNodes):
        raise ConfigValueError(
            f"{origin}.calibration_type is {methods[0]}, which is for the whole model: it belongs into "
            "model_config."
        )
    try:
        found = candidates(activation)
    except ValueError as e:
        raise ConfigValueError(f"{origin}: {e}.") from e
    for field, message, honoured in hints(activation, written):
        place = document.where((*at, "activation", field))
        path = path_text((*at, "activation", field))
        notes.append(Note(f"{place}: {path}", message, honoured))
    first = found[0]
    rest = found if len(found) > 1 else ()
    return _rule(where, Settings(candidates=rest).over(first), origin)


def _bias(where: Where, weight: Weight, document: Document, at: KeyPath) -> Iterator[Rule]:
    bias = weight.bias_correction
    if bias is not None:
        settings = Settings(bias_samples=bias.num_sample, bias_metric=bias.metric)
        yield _rule(where, settings, _origin(document, (*at, "weight", "bias_correction")))


def _origin(document: Document, at: KeyPath) -> str:
    """Return `quant_config.json:12 node_config.Conv_3.qtype`."""
    return f"{Path(document.where(at)).name} {path_text(at)}"
