"""Functions and classes of a module that is not loaded: what it needs may not be installed. Signatures and docstrings alone.

Read from the source: bodies are left out, and nothing of the module runs but the defaults of arguments.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

__all__ = ["unloaded"]


def unloaded(module: str, name: str, where: Path) -> Any:
    """Return a function or a class with its signature and its docstrings, whose bodies do nothing.

    Args:
        module: Name of the module.
        name: The function or class.
        where: Folder of the sources.
    """
    path = where.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node = next(
        n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name
    )
    is_data = isinstance(node, ast.ClassDef) and "dataclass" in ast.unparse(node.decorator_list[0])
    bare = _bare(node)
    scope: dict[str, Any] = {"field": dataclasses.field, "__name__": __name__}
    for default in ast.walk(bare):
        if isinstance(default, ast.Name) and default.id not in scope and default.id[0].isupper():
            scope[default.id] = _Named(default.id)
    future = ast.parse("from __future__ import annotations").body
    code = ast.fix_missing_locations(ast.Module([*future, bare], []))
    exec(compile(code, str(file), "exec"), scope)
    made = scope[name]
    return dataclasses.dataclass(made) if is_data else made


class _Named:
    """A name of the module, as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getattr__(self, name: str) -> _Named:
        return _Named(f"{self.text}.{name}")

    def __call__(self) -> None:
        """Make nothing."""

    def __repr__(self) -> str:
        return self.text


def _bare(node: Any) -> Any:
    """Return a definition without what it does."""
    doc = [node.body[0]] if ast.get_docstring(node) is not None else []
    if isinstance(node, ast.ClassDef):
        inner = [
            _bare(n) if isinstance(n, ast.FunctionDef) else n
            for n in node.body
            if isinstance(n, ast.FunctionDef | ast.AnnAssign)
        ]
        node.body, node.decorator_list, node.bases = [*doc, *inner] or [ast.Pass()], [], []
        return node
    node.body = doc or [ast.Pass()]
    node.decorator_list = [
        d for d in node.decorator_list if ast.unparse(d) in ("property", "classmethod")
    ]
    return node
