"""YAML with lines, without surprises.

Each key path knows its line. Scalars follow the core schema of YAML 1.2 (section 10.3.2), not PyYAML's
YAML 1.1: `on`, `off`, `yes` and `no` are texts, `1e-3` is a number, `12:30` and `2024-01-01` are texts.
A key that stands twice is an error. JSON is YAML and is read the same way; bare JSON text has no lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from calibrant.errors import ConfigValueError, Problems

__all__ = ["Block", "Document", "KeyPath", "path_text", "read", "write"]

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_CORE = [
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), list("-+0123456789")),
    (
        "float",
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own form


class Block(dict[str, Any]):
    """A mapping that is written with one key a line, however short it is."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either schema would take for something other than text, and indents the items of a list."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # PyYAML writes these line breaks of Unicode as they are, and reads them back as spaces.
    style = '"' if set(value) & set("\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar(_TAG + "str", value, style)


def _block(dumper: yaml.SafeDumper, value: Block) -> yaml.Node:
    node = dumper.represent_mapping(_TAG + "map", value)
    node.flow_style = False
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Block, _block)
for _name, _pattern, _first in _CORE:
    whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_TAG + _name, whole, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, whole, _first)


def path_text(path: KeyPath) -> str:
    """Write a key path.

    Example:
        >>> path_text(("rules", 2, "activation", "bits"))
        'rules[2].activation.bits'
    """
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, and where.

    Args:
        content: Mappings, lists and scalars.
        source: File, for messages.
        lines: Line of each key path, from 1; empty where there are none.
        columns: Column of each key path, from 1, where that is known.
    """

    content: Any
    source: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    columns: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Return `recipe.yaml:12` for a key path, or the line of what is around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                column = self.columns.get(path[:end])
                line = f"{self.source}:{self.lines[path[:end]]}"
                return f"{line}:{column}" if column is not None else line
        return self.source


def read(
    text: str,
    path: Path | None,
    *,
    names: Collection[str] = (),
    problems: Problems | None = None,
) -> Document:
    """Read YAML or JSON.

    Args:
        text: The text.
        path: Its file, or None.
        names: Keys whose values are names: scalars stay texts there, as written (`layer: 123`).
        problems: Gets the errors of single keys, which are left out then; without it they are raised.

    Raises:
        ConfigValueError: No valid YAML, a key twice, a key that is no text, an alias or a tag.
    """
    source = "recipe" if path is None else str(path)
    if path is None and text.lstrip().startswith("{"):
        try:
            return Document(json.loads(text), source)
        except ValueError:
            pass  # flow-style YAML begins so, too
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigValueError(f"{source}{line}: this is not valid YAML: {e.problem}.") from e
    except yaml.YAMLError as e:
        raise ConfigValueError(
            f"{source}: this is not valid YAML: {' '.join(str(e).split())}."
        ) from e
    except RecursionError as e:
        raise ConfigValueError(f"{source}: this is nested too deeply for a recipe.") from e
    if node is None:
        return Document(None, source)
    lines: dict[KeyPath, int] = {}
    found = Problems()
    content: Any = None
    with found.caught():
        content = _Builder(source, frozenset(names), lines, found).build(node, (), as_name=False)
    if problems is None or content is None:
        found.check()
    else:
        problems.add(*found.errors)
    return Document(content, source, lines)


class _Builder:
    def __init__(
        self,
        source: str,
        names: frozenset[str],
        lines: dict[KeyPath, int],
        problems: Problems,
    ) -> None:
        self._source, self._names, self._lines = source, names, lines
        self._problems = problems
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath, *, as_name: bool) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._seen:
            raise self._error(node, "an alias (*name) is not supported; write the value out")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(n, (*path, i), as_name=as_name) for i, n in enumerate(node.value)]
        return self._scalar(node, as_name=as_name)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            with self._problems.caught():
                if not isinstance(key_node, yaml.ScalarNode):
                    raise self._error(key_node, "a key has to be a text")
                key = str(key_node.value)
                if (*path, key) in self._lines:
                    first = self._lines[(*path, key)]
                    full = path_text((*path, key))
                    raise self._error(
                        key_node, f"'{full}' stands here and in line {first}; a key stands once"
                    )
                self._lines[(*path, key)] = key_node.start_mark.line + 1
                content[key] = self.build(value_node, (*path, key), as_name=key in self._names)
        return content

    def _scalar(self, node: yaml.Node, *, as_name: bool) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind not in {"str", *(name for name, _, _ in _CORE)}:
            raise self._error(node, f"the tag '{node.tag}' is not allowed")
        if kind == "str" or (as_name and kind != "null"):
            return str(node.value)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return node.value.lower() == "true"
            if kind == "int":
                return int(node.value, 0) if node.value[:2] in ("0x", "0o") else int(node.value)
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as e:
            raise self._error(node, f"'{node.value}' is no {kind}") from e

    def _error(self, node: yaml.Node, text: str) -> ConfigValueError:
        return ConfigValueError(f"{self._source}:{node.start_mark.line + 1}: {text}.")


def write(content: Any) -> str:
    """Write YAML that `read` and any YAML 1.1 or 1.2 reader takes alike; leaves stand in one line."""
    text: str = yaml.dump(
        content,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        width=99,
        allow_unicode=True,
    )
    return text
