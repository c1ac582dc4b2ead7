"""Devices as data: each target is a YAML file, of calibrant's own, of a package, or of the user's.

target.py       what a target is
schema.py       what a file may say: keys, types, limits
file.py         a file or a mapping becomes a target, and back
registry.py     targets by name, by path, and by entry point
*.yaml          the targets that calibrant ships, in the form that a user writes
"""

from calibrant.graph.targets.registry import (
    builtin,
    from_mapping,
    get,
    is_path,
    names,
    to_mapping,
)
from calibrant.graph.targets.target import Target, WidthLimit

__all__ = [
    "Target",
    "WidthLimit",
    "builtin",
    "from_mapping",
    "get",
    "is_path",
    "names",
    "to_mapping",
]
