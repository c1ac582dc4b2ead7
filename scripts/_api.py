"""Signatures and docstrings as Markdown, for `scripts/update_docs.py`.

A function is shown as `def name(a: int = 0) -> str`, with a parameter a line where one line is too long; a class by its
fields and their defaults, or by its `__init__`. Of a docstring in Google form the prose stays prose, indented text becomes
code, and the sections become lists.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

__all__ = ["class_text", "docstring_text", "member_text"]

WIDTH = 95

#: What the sections of a docstring are called on a page.
SECTIONS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Yields": "Yields",
    "Raises": "Raises",
    "Example": "Example",
    "Examples": "Examples",
}
NAMED = ("Args", "Attributes", "Raises")  # sections that are lists of `name: text`


def member_text(value: Any) -> str:
    """Return a function, a class method, or a property with its type: as a block of code, and its docstring."""
    if isinstance(value, property):
        getter: Any = value.fget
        written = f"{getter.__name__}: {_annotation(inspect.signature(getter).return_annotation)}"
    elif isinstance(value, classmethod):
        function = value.__func__
        written = "@classmethod\n" + _call(function.__name__, *_parameters(function))
    else:
        written = _call(value.__name__, *_parameters(value))
    return f"{_block(written)}\n\n{docstring_text(value)}"


def class_text(cls: type) -> str:
    """Return what a class is made from as a block of code, and its docstring.

    Errors, modules of constants and the like, whose arguments nobody needs, have the docstring alone.
    """
    made = ""
    if dataclasses.is_dataclass(cls):
        parameters = inspect.signature(cls).parameters.values()
        by_name = any(p.kind is p.KEYWORD_ONLY for p in parameters)
        only = "  # all by keyword" if by_name else ""
        fields = [_parameter(p) for p in parameters]
        made = f"class {cls.__name__}:{only}\n" + textwrap.indent(
            "\n".join(fields) or "...", "    "
        )
    elif inspect.isfunction(vars(cls).get("__init__")):
        written, _ = _parameters(vars(cls)["__init__"])
        call = _call("__init__", ["self", *written], "None")
        made = f"class {cls.__name__}:\n" + textwrap.indent(call, "    ")
    return (f"{_block(made)}\n\n" if made else "") + docstring_text(cls)


def docstring_text(value: Any) -> str:
    """Return a docstring as Markdown."""
    return "\n\n".join(_parts(inspect.getdoc(value) or ""))


def _block(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


# ------------------------------------------------------------------------------------------- signatures


def _parameters(function: Any) -> tuple[list[str], str]:
    """Return the parameters of a function as they are written, with `*` and `/`, and what it returns."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    written = []
    for before, p in zip([None, *parameters], parameters, strict=False):
        star = before is None or before.kind not in (p.VAR_POSITIONAL, p.KEYWORD_ONLY)
        if p.kind is p.KEYWORD_ONLY and star:
            written.append("*")
        written.append(_parameter(p))
    returned = signature.return_annotation
    return written, "" if returned is signature.empty else _annotation(returned)


def _parameter(p: inspect.Parameter) -> str:
    stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    text = stars + p.name
    if p.annotation is not p.empty:
        text += f": {_annotation(p.annotation)}"
    if p.default is not p.empty:
        text += (" = " if ":" in text else "=") + _default(p.default)
    return text


def _annotation(value: Any) -> str:
    return value if isinstance(value, str) else inspect.formatannotation(value)


def _default(value: Any) -> str:
    """Return a default as Python; what is made anew for each call has none to show."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}" if abs(value) >= 100_000 else str(value)
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return "..."
    return text


def _call(name: str, parameters: list[str], returned: str) -> str:
    arrow = f" -> {returned}" if returned else ""
    line = f"def {name}({', '.join(parameters)}){arrow}"
    if len(line) <= WIDTH:
        return line
    return f"def {name}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){arrow}"


# ------------------------------------------------------------------------------------------- docstrings


def _parts(doc: str) -> Iterator[str]:
    """Yield paragraphs, blocks of code and sections."""
    section: str | None = None
    for head, lines in _sections(doc):
        section = head
        text = textwrap.dedent("\n".join(lines)).strip("\n")
        if section is None:
            yield from _prose(text)
        elif section.startswith("Example"):
            yield f"**{SECTIONS[section]}**"
            yield from _examples(text)
        elif section in NAMED:
            yield f"**{SECTIONS[section]}**\n\n" + "\n".join(_items(text))
        else:
            yield f"**{SECTIONS[section]}**"
            yield from _prose(text)


def _sections(doc: str) -> Iterator[tuple[str | None, list[str]]]:
    """Yield each section with its name, and what stands outside of sections with None."""
    head: str | None = None
    lines: list[str] = []
    for line in doc.splitlines():
        name = line.removesuffix(":")
        starts = line.endswith(":") and name in SECTIONS
        ends = head is not None and line[:1].strip() != ""
        if starts or ends:
            yield head, lines
            head, lines = (name, []) if starts else (None, [line])
        else:
            lines.append(line)
    yield head, lines


def _prose(text: str) -> Iterator[str]:
    """Yield paragraphs; lines that are indented are a block of code."""
    for is_code, block in _blocks(text):
        yield _code(block) if is_code else _escaped(block)


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    kept: list[str] = []
    was_code = False
    for line in [*text.splitlines(), ""]:
        is_code = line.startswith("  ")
        if line.strip() and kept and is_code != was_code:
            yield was_code, "\n".join(kept)
            kept = []
        if line.strip():
            was_code = is_code
            kept.append(line)
        elif was_code and kept:
            kept.append("")
        elif kept:
            yield False, "\n".join(kept)
            kept = []
    if kept:
        yield was_code, "\n".join(kept)


def _code(block: str) -> str:
    """Return a block of code, named Python where it is."""
    text = textwrap.dedent(block).strip("\n")
    if text.startswith(">>>"):
        return _block(text, "pycon")
    try:
        ast.parse(text)
    except SyntaxError:
        return _block(text, "text")
    return _block(text, "python" if re.search(r"[=(@]", text) else "text")


def _examples(text: str) -> Iterator[str]:
    """Yield the prose and the sessions of an example."""
    for part in re.split(r"\n\n+", text):
        yield _block(part, "pycon") if part.startswith(">>>") else _escaped(part)


def _items(text: str) -> Iterator[str]:
    """Yield a list entry for each `name: text`, whose text may take several lines."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(" ") and entries:
            entries[-1].append(line.strip())
        elif line.strip():
            entries.append([line])
    for lines in entries:
        name, colon, about = " ".join(lines).partition(": ")
        names = ", ".join(f"`{n}`" for n in name.split(", "))
        yield f"- {names}: {_escaped(about)}" if colon else f"- {_escaped(name)}"


def _escaped(text: str) -> str:
    """Return prose in which signs that Markdown would take for its own are escaped, outside of `code`."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*<])", r"\\\1", p) for p in pieces)
