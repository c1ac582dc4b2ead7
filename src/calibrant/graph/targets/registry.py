"""Targets by name or by path: those that calibrant ships, those of installed packages, and files of the user's.

A package adds targets through the entry point group `calibrant.targets`: the name is that of the target, the
value a `Target` or the path of its file. Files are read when they are asked for, so a list of names costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.graph.targets.target import Target

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["builtin", "from_mapping", "get", "is_path", "names", "to_mapping"]

GROUP = "calibrant.targets"

#: How the name of a target's file ends.
ENDINGS = (".yaml", ".yml", ".json")


def builtin() -> list[str]:
    """Return the names of the targets that calibrant ships, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def names() -> list[str]:
    """Return the names of all targets, of calibrant's and of installed packages, sorted."""
    return sorted({*builtin(), *_entry_points()})


def is_path(name: str) -> bool:
    """Say whether a target is given as a file: it has a folder in it, or ends as such files do.

    Example:
        >>> is_path("generic"), is_path("my_npu.yaml"), is_path("devices/npu")
        (False, True, True)
    """
    return name.endswith(ENDINGS) or os.sep in name


def get(name: str | Path) -> Target:
    """Return a target.

    Args:
        name: Its name, or the path of its file (which ends in .yaml, .yml or .json, or has a folder in it).

    Raises:
        ConfigValueError: There is no such target, or its file says what is not allowed.
        ConfigTypeError: A value of its file has the wrong type.
    """
    if isinstance(name, Path) or is_path(name):
        return _of_the_user(Path(name), ())
    return _named(name)


def _named(name: str) -> Target:
    if name in builtin():
        return _builtin(name)
    known = _entry_points()
    if name in known:
        return _from_entry(known[name])
    every = names()
    raise ConfigValueError(
        f"Unknown target '{name}'. Known: {', '.join(every)}; a file of your own ends in "
        f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.{did_you_mean(name, every)}"
    )


@cache
def _builtin(name: str) -> Target:
    return _from_file(Path(__file__).with_name(f"{name}.yaml"), ())


def _of_the_user(path: Path, chain: tuple[Path, ...]) -> Target:
    target = _from_file(path, chain)
    if target.name in builtin():
        raise ConfigValueError(
            f"{path}: name is '{target.name}', which is a target of calibrant's own; give it another."
        )
    return target


def _from_file(path: Path, chain: tuple[Path, ...]) -> Target:
    """Read a file; `chain` is the files that lead to it, each by its `like`."""
    from calibrant.graph.targets.file import read_target

    if path in chain:
        steps = " -> ".join(map(str, [*chain[chain.index(path) :], path]))
        raise ConfigValueError(f"the file is like itself: {steps}.")

    def look(name: str) -> Target:
        if is_path(name):
            return _of_the_user(path.parent / name, (*chain, path))
        return _named(name)

    return read_target(path, look)


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Return the entry points by name.

    Raises:
        ConfigValueError: Two have one name, or one has the name of a target of calibrant's.
    """
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        first = found.get(entry.name)
        if entry.name in builtin() or (first is not None and first.value != entry.value):
            other = first.value if first is not None else "calibrant itself"
            raise ConfigValueError(
                f"Two targets are called '{entry.name}': one of {other} and one of {entry.value} (entry point group "
                f"{GROUP}). One of them needs another name."
            )
        found[entry.name] = entry
    return found


def _from_entry(entry: EntryPoint) -> Target:
    value = entry.load()
    if isinstance(value, str | Path):
        value = _of_the_user(Path(value), ())
    if not isinstance(value, Target):
        raise ConfigTypeError(
            f"Entry point '{entry.name}' of {GROUP} is a {type(value).__name__} ({entry.value}); it is a Target or "
            "the path of its file."
        )
    if value.name != entry.name:
        raise ConfigValueError(
            f"Entry point '{entry.name}' of {GROUP} gives a target that is called '{value.name}' ({entry.value}); "
            "both names are one."
        )
    return value


def from_mapping(content: Mapping[str, Any], source: str) -> Target:
    """Return the target that a mapping describes, as a file would.

    Args:
        content: What a file would hold.
        source: Where it stands, for messages.

    Raises:
        ConfigValueError: It says what is not allowed.
        ConfigTypeError: A value has the wrong type.
    """
    from calibrant.graph.targets.file import target_of
    from calibrant.text.yaml_text import Document

    return target_of(Document(dict(content), source), get)


def to_mapping(target: Target) -> dict[str, Any]:
    """Return a target as the content of a file; what is at its default is left out."""
    from calibrant.graph.targets.file import to_mapping as mapping

    return mapping(target)
