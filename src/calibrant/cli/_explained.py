"""What a recipe means for a model, as text: layers with equal settings together, or each in full."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from calibrant.cli._levels import Decided
from calibrant.recipe.words import choice_words, setting_words

__all__ = ["in_brief", "in_full", "told"]

Layer = Mapping[str, Any]

#: Columns for a value where every setting is written out.
VALUE_WIDTH = 18

#: Names that stand in a line before the rest is counted.
NAMED = 3


def in_brief(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines: one row for all layers with equal settings, then the rules that decided something."""
    layers = content["layers"]
    yield from _head(content)
    said = [f"  {words}" for words in content["wishes"]]
    yield from _list("For the whole model", said)
    yield from _list("Layers", _rows(_grouped(layers, _means)))
    yield from _list("Inputs that differ from their layer", _inputs(layers))
    yield from _list("Decided by", _deciders(layers))
    yield from _notes(content)
    yield ""
    yield "--layer GLOB shows every setting of some layers and what decided it, --all of all."


def in_full(content: Mapping[str, Any], *, everything: bool) -> Iterator[str]:
    """Yield lines: every setting of every layer, with the level and the rule that decided it.

    Args:
        content: What the command found.
        everything: Show what holds for the whole model as well, and each layer by itself; otherwise layers that
            are equal in all this, the rule among it, are shown once.
    """
    yield from _head(content)
    whole = content["whole_model"]
    lines = [
        f"  {'fixed inputs' if name == 'fix' else _spaced(name):<22}  {_whole(value)}"
        for name, value in whole.items()
        if name != "target" and value is not None
    ]
    yield from _list("Whole model", lines if everything else [])
    layers = content["layers"]
    groups = [[x] for x in layers] if everything else _grouped(layers, _all_of_it)
    for group in groups:
        layer = group[0]
        state = "quantized" if layer["quantized"] else f"stays in float: {layer['reason']}"
        yield ""
        yield f"{', '.join(x['layer'] for x in group)} ({layer['op_type']}), {state}"
        yield from _settings(_shown(layer))
        for entry in layer["inputs"]:
            if layer["quantized"] or "compute" in entry["settings"]:
                yield f"  input {entry['input']} '{entry['tensor']}'"
                yield from _settings(entry["settings"], "  ")
    yield from _notes(content)


def _head(content: Mapping[str, Any]) -> Iterator[str]:
    layers = content["layers"]
    count = sum(layer["quantized"] for layer in layers)
    yield f"{content['recipe']} for {content['model']}, target {content['whole_model']['target']}"
    if content["whole_model"]["training"]:
        yield "It is for training with quantization: ranges are learned. 'calibrant train' does that."
    yield f"{len(layers)} layers: {count} quantized, {len(layers) - count} left in float"


# -------------------------------------------------------------------------------------------- in brief


def _grouped(layers: Iterable[Layer], key: Callable[[Layer], Hashable]) -> list[list[Layer]]:
    groups: dict[Hashable, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    return list(groups.values())


def _means(layer: Layer) -> str:
    """Return what a layer is: its settings, or why it is in float; whatever decided it."""
    return "; ".join(_cells(layer)) if layer["quantized"] else _reason(layer)


def _all_of_it(layer: Layer) -> Hashable:
    """Return everything that is shown of a layer, but for its name and those of its tensors."""
    inputs = tuple((e["input"], *e["settings"].items()) for e in layer["inputs"])
    return layer["op_type"], layer["quantized"], _reason(layer), *_shown(layer).items(), inputs


def _reason(layer: Layer) -> str:
    """Return why a layer is in float, without its own name."""
    return str(layer["reason"]).replace(f"'{layer['layer']}'", "'…'")


def _rows(groups: Sequence[Sequence[Layer]]) -> list[str]:
    columns = ("", "activations", "weights", "also", "layers")
    rows = [
        (_counted(g), *_cells(g[0]), _named([x["layer"] for x in g]))
        for g in groups
        if g[0]["quantized"]
    ]
    lines = _table(columns, rows) if rows else []
    for group in groups:
        if not group[0]["quantized"]:
            names = _named([x["layer"] for x in group])
            reason = group[0]["reason"] if len(group) == 1 else _reason(group[0])
            lines.append(f"  {_counted(group)} in float: {reason}: {names}")
    return lines


def _cells(layer: Layer) -> tuple[str, str, str]:
    """Return the activations, the weights, and what else holds for a quantized layer."""
    s = {name: decided.value for name, decided in layer["settings"].items()}
    chosen = choice_words("activation", s["activation"]), choice_words("weight", s["weight"])
    zero = "symmetric" if s["activation_symmetric"] else "asymmetric"
    each = " per channel" if s["activation_per_channel"] else ""
    activation = f"int{s['activation_bits']} {chosen[0]} {zero}{each}"
    each = "channel" if s["weight_per_channel"] else "tensor"
    weight = f"int{s['weight_bits']} {chosen[1]} per {each}"
    also = []
    if s.get("balance"):
        also.append(f"balance {s['balance']:g}")
    if s.get("compensation"):
        also.append("compensated")
    also += [setting_words(n, s[n]) for n in ("candidates", "bias_samples") if s.get(n)]
    return activation, weight, ", ".join(also)


def _counted(group: Sequence[Layer]) -> str:
    """Return how many of each operator there are: `19 Conv, 1 Gemm`."""
    kinds: dict[str, int] = {}
    for layer in group:
        kinds[layer["op_type"]] = kinds.get(layer["op_type"], 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _inputs(layers: Iterable[Layer]) -> list[str]:
    """Return inputs with settings of their own, those together that are alike."""
    groups: dict[tuple[int, str], list[str]] = {}
    for layer in layers:
        for entry in layer["inputs"]:
            if layer["quantized"] or "compute" in entry["settings"]:
                said = ", ".join(setting_words(n, d.value) for n, d in entry["settings"].items())
                groups.setdefault((entry["input"], said), []).append(layer["layer"])
    return [f"  input {i} of {_named(names)}: {said}" for (i, said), names in groups.items()]


def _deciders(layers: Iterable[Layer]) -> list[str]:
    """Return the rules that decided something, each with what, and for how many layers."""
    said: dict[tuple[str, str], dict[str, Any]] = {}
    counts: dict[tuple[str, str], set[str]] = {}
    for layer in layers:
        entries = [_shown(layer)]
        entries += [
            e["settings"]
            for e in layer["inputs"]
            if layer["quantized"] or "compute" in e["settings"]
        ]
        for name, d in itertools.chain.from_iterable(e.items() for e in entries):
            if d.level != "default":
                key = (d.level, d.rule)
                said.setdefault(key, {})[name] = d.value
                counts.setdefault(key, set()).add(layer["layer"])
    alike: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for (level, rule), fields in said.items():
        text = ", ".join(itertools.starmap(setting_words, fields.items()))
        alike.setdefault((level, text), []).append((rule, len(counts[level, rule])))
    rows = [
        (_named([r for r, _ in rules], 1), level, str(sum(n for _, n in rules)), text)
        for (level, text), rules in alike.items()
    ]
    return _table(("rule", "level", "layers", "what"), rows) if rows else []


# --------------------------------------------------------------------------------------------- in full


def _shown(layer: Layer) -> Mapping[str, Decided]:
    """Return the settings that are of effect: of a layer in float, that it is."""
    settings: Mapping[str, Decided] = layer["settings"]
    return settings if layer["quantized"] else {"compute": settings["compute"]}


def _settings(settings: Mapping[str, Decided], indent: str = "") -> Iterator[str]:
    for name, s in settings.items():
        value = told(s.value)
        *before, value = value if isinstance(value, list) and value else [value]
        head = f"{indent}  {_spaced(name):<{22 - len(indent)}}"
        for line in before:
            yield f"{head}  {line}"
            head = " " * 24
        head = f"{head}  {_value(value):<{VALUE_WIDTH}}"
        if len(_value(value)) > VALUE_WIDTH:  # what decided it stands on a line of its own
            yield head
            head = " " * (26 + VALUE_WIDTH)
        yield f"{head}  {s.level:<8}  {s.rule}"


def _whole(value: Any) -> str:
    if isinstance(value, Mapping):
        said = [f"{_spaced(k)} {_value(v)}" for k, v in value.items() if v not in (None, (), [])]
        return ", ".join(said)
    return _value(value)


# ----------------------------------------------------------------------------------------------- both


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    kept = [n for n in content["notes"] if not n["honoured"]]
    other = [n for n in content["notes"] if n["honoured"]]
    yield from _list("Not done as asked", _alike(kept))
    yield from _list("Done in another way", _alike(other))
    refused = [f"  {text}" for text in content["not_implemented"]]
    yield from _list("Not implemented yet, so 'calibrant quantize' refuses it", refused)


def _alike(notes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return notes, one for all that differ in the name of a layer, and in their place, alone."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for note in notes:
        groups.setdefault(re.sub(r"'[^']*'", "''", note["message"]), []).append(note)
    return [
        f"  {g[0]['where']}: {g[0]['message']}"
        + (f" The same in {len(g) - 1} more places." if len(g) > 1 else "")
        for g in groups.values()
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned columns; those without content are left out, the last is as wide as it is."""
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    lines = [[columns[i] for i in used], *([row[i] for i in used] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(used) - 1)]
    return [
        "  " + "  ".join([*(f"{c:<{w}}" for c, w in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    ]


def _named(names: Sequence[str], most: int = NAMED) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from lines


def told(value: Any) -> Any:
    """Return a setting as a number, a text, or a list of candidates."""
    if isinstance(value, tuple):
        return [", ".join(f"{_spaced(k)} {_value(v)}" for k, v in c.items()) for c in value]
    return value if isinstance(value, bool | int | float) else str(value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
