"""The mapping file of non-uniform weights: JSON that names the layers of a compiled model.

| Form | Names |
|---|---|
| `{"layers": ["a", "b"]}` | the list |
| any other JSON | every `name` of an object in it |

The public documents say that Ascend's converter writes such a file of a model that was compiled before, and not which form
it has. Source: docs/reference/ascend-configurations.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrant.errors import ConfigValueError
from calibrant.recipe import MappedLayers
from calibrant.text.json_text import read_json

__all__ = ["mapped_layers"]


def mapped_layers(file: str, beside: Path | None) -> MappedLayers:
    """Read a mapping file.

    Args:
        file: As the configuration names it; relative to the configuration, or else to where we are.
        beside: The configuration, or None.

    Returns:
        Its layers; without names where there is no such file yet.

    Raises:
        ConfigValueError: The file is no JSON, or names nothing.
    """
    places = [Path(file)] if beside is None else [beside.parent / file, Path(file)]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        return MappedLayers(file, None)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigValueError(f"The mapping file '{path}' cannot be read: {e}.") from e
    names = tuple(dict.fromkeys(_names(read_json(text, path).content)))
    if not names:
        raise ConfigValueError(
            f"The mapping file '{path}' names no layer: it has neither a list 'layers' nor a 'name' in it."
        )
    return MappedLayers(file, names)


def _names(content: Any) -> list[str]:
    if isinstance(content, list):
        return [n for item in content for n in _names(item)]
    if not isinstance(content, dict):
        return []
    listed = content.get("layers")
    if isinstance(listed, list) and listed and all(isinstance(n, str) for n in listed):
        return listed
    own = [content["name"]] if isinstance(content.get("name"), str) else []
    return own + [n for value in content.values() for n in _names(value)]
