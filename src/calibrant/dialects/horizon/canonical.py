"""Bring a `quant_config` into its one form: old places, names and spellings replaced, and noted.

| Written | Read as |
|---|---|
| `activation`, `weight` and searches at top level | in `model_config` |
| `model_config: {"any name": {…}}` | `model_config: {…}` |
| `{"ON": "int16"}`, `InputType`, `OutputType` | `qtype` |
| `fp16`, `fp32`, `float` | `float16`, `float32` |

The vendor's documents and templates have all of these. Source: docs/reference/horizon-configurations.md.
"""

from __future__ import annotations

from typing import Any

from calibrant.dialects.horizon.schema import (
    FINE_FIELDS,
    QTYPES,
    RESERVED,
    SECTIONS,
    ModelConfig,
)
from calibrant.errors import (
    ConfigTypeError,
    ConfigValueError,
    Problems,
    UnsupportedError,
    did_you_mean,
)
from calibrant.recipe import Note
from calibrant.text.yaml_text import Document, KeyPath, path_text

__all__ = ["canonical"]

_MOVED = ("activation", "weight", "modelwise_search", "layerwise_search", "search")
_TOP = ("model_config", *SECTIONS)
_SPELLINGS = {"fp16": "float16", "fp32": "float32", "float": "float32"}
_ALIASES = ("ON", "InputType", "OutputType")


def canonical(document: Document, problems: Problems) -> tuple[Document, tuple[Note, ...]]:
    """Return the document in its one form, and what to note.

    Args:
        document: A mapping.
        problems: Gets unknown sections and fields, sections that are no mapping, two places that say different
            things, and types that are reserved; each is left out.
    """
    form = _Form(document, problems)
    for key in document.content:
        if key not in (*_TOP, *_MOVED):
            problems.add(
                ConfigValueError(
                    f"{document.where((key,))}: {key} is no section. Sections: {', '.join(_TOP)}."
                    + did_you_mean(key, [*_TOP, *_MOVED, *ModelConfig.model_fields])
                )
            )
    with problems.caught():
        form.model_config()
    for section in SECTIONS:
        with problems.caught():
            if section in document.content:
                form.section(section)
    lines, columns = form.lines, document.columns
    return Document(form.content, document.source, lines, columns), tuple(form.notes)


class _Form:
    def __init__(self, document: Document, problems: Problems) -> None:
        self._document, self._problems = document, problems
        self.content: dict[str, Any] = {}
        self.lines = dict(document.lines)
        self.notes: list[Note] = []

    def model_config(self) -> None:
        """Collect what holds for the whole model."""
        at: KeyPath = ("model_config",)
        content = self._mapping(at) if "model_config" in self._document.content else {}
        inner = [k for k, v in content.items() if isinstance(v, dict)]
        if len(content) == 1 and inner and inner[0] not in ModelConfig.model_fields:
            self._note((*at, inner[0]), f"model_config.{inner[0]} is read as model_config itself.")
            self._move((*at, inner[0]), at)
            content = content[inner[0]]
        collected = dict(content)
        for key in _MOVED:
            if key not in self._document.content:
                continue
            value = self._document.content[key]
            with self._problems.caught():
                if key in collected and collected[key] != value:
                    raise ConfigValueError(
                        f"{self._document.where((key,))}: {key} stands here and in model_config, and the two "
                        "are different; it belongs into model_config."
                    )
                self._move((key,), (*at, key))
                collected[key] = value
        for key in ("all_node_type", "model_output_type"):
            if key in collected:
                value = collected.pop(key)
                with self._problems.caught():
                    collected[key] = self._type(value, (*at, key))
        if collected or "model_config" in self._document.content:
            self.content["model_config"] = collected

    def section(self, section: str) -> None:
        """Bring the entries of one finer level into form."""
        entries = self._mapping((section,))
        self.content[section] = found = {}
        for name in entries:
            with self._problems.caught():
                found[name] = self._entry((section, name), self._mapping((section, name)))

    def _entry(self, at: KeyPath, entry: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in entry.items():
            with self._problems.caught():
                self._field(key, value, at, found)
        return found

    def _field(self, key: str, value: Any, at: KeyPath, found: dict[str, Any]) -> None:
        """Add one field of an entry to those that are found."""
        name = "qtype" if key in _ALIASES else key
        numbered = name.startswith("input") and name[5:].isdigit()
        known = [*FINE_FIELDS, "input0", "input1"]
        if at[0] == "subgraph_config":
            known += ["inputs", "outputs"]
        if name not in known and not numbered:
            raise ConfigValueError(
                f"{self._document.where((*at, key))}: {path_text((*at, key))} is not known. Known: "
                f"{', '.join(known)} and further inputs." + did_you_mean(key, known)
            )
        if key in _ALIASES:
            self._note((*at, key), f"{path_text((*at, key))} is read as qtype.")
            self._move((*at, key), (*at, "qtype"))
        if name == "qtype" or numbered:
            value = self._type(value, (*at, key))
        if name in found and found[name] != value:
            raise ConfigValueError(
                f"{self._document.where((*at, key))}: {path_text((*at, key))} is {value!r}, and another "
                f"key says that qtype is {found[name]!r}."
            )
        found[name] = value

    def _type(self, value: Any, at: KeyPath) -> Any:
        if not isinstance(value, str):
            return value
        if value in _SPELLINGS:
            self._note(at, f"{path_text(at)} is {value}, which is read as {_SPELLINGS[value]}.")
            return _SPELLINGS[value]
        if value in RESERVED:
            raise UnsupportedError(
                f"{self._document.where(at)}: {path_text(at)} is {value!r}, which is reserved, not "
                f"implemented. Implemented: {', '.join(QTYPES)}."
            )
        return value

    def _mapping(self, at: KeyPath) -> dict[str, Any]:
        content = self._document.content
        for key in at:
            content = content[key]
        if not isinstance(content, dict):
            raise ConfigTypeError(
                f"{self._document.where(at)}: {path_text(at)} is {content!r}; it is a mapping."
            )
        return content

    def _move(self, old: KeyPath, new: KeyPath) -> None:
        """Take the lines of a section along to its place."""
        for path, line in self._document.lines.items():
            if path[: len(old)] == old:
                self.lines[(*new, *path[len(old) :])] = line

    def _note(self, at: KeyPath, message: str) -> None:
        self.notes.append(Note(self._document.where(at), message, honoured=True))
