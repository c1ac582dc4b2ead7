"""Read a quant-info file: which nodes stand around a layer to quantize what it reads and to dequantize what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.errors import ConfigValueError
from calibrant.text.json_text import read_json

__all__ = ["Surroundings", "read_info"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Nodes around layers.

    Args:
        in_front: Names of nodes that quantize.
        behind: Names of nodes that dequantize.
    """

    in_front: frozenset[str] = frozenset()
    behind: frozenset[str] = frozenset()


def read_info(path: Path | None) -> Surroundings:
    """Read a file of the form `{"layers": [{"quant_nodes": [...], "dequant_nodes": [...]}, ...]}`.

    Args:
        path: The file, or None for no nodes.

    Raises:
        ConfigValueError: It cannot be read, or has another form.
    """
    if path is None:
        return Surroundings()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigValueError(f"The quant-info file '{path}' cannot be read: {e}.") from e
    content = read_json(text, path).content
    layers = content.get("layers") if isinstance(content, Mapping) else None
    if not isinstance(layers, list) or not all(isinstance(x, Mapping) for x in layers):
        raise ConfigValueError(
            f"{path}: a quant-info file is an object with a list of objects named 'layers'."
        )
    return Surroundings(
        frozenset(_names(layers, "quant_nodes", path)),
        frozenset(_names(layers, "dequant_nodes", path)),
    )


def _names(layers: list[Mapping[str, Any]], key: str, path: Path) -> Iterator[str]:
    for i, layer in enumerate(layers):
        names = layer.get(key, [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ConfigValueError(
                f"{path}: layers[{i}].{key} is {names!r}; it is a list of names."
            )
        yield from names
