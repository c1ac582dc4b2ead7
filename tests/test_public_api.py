"""The public page: what it lists exists, is documented, and costs nothing to import."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import calibrant

HEAVY = {
    "jinja2",
    "matplotlib",
    "ml_dtypes",
    "numba",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "PIL",
    "plotly",
    "pydantic",
    "rich",
    "torch",
    "typer",
    "yaml",
}


def modules() -> list[str]:
    """Return all modules; those of training only where torch is installed."""
    found = pkgutil.walk_packages(calibrant.__path__, "calibrant.")
    names = [m.name for m in found if not m.name.endswith("__main__")]
    if importlib.util.find_spec("torch") is None:
        training = ("calibrant.qat", "calibrant.compat.amct", "calibrant.compat.horizon")
        names = [n for n in names if not n.startswith(training)]
    return ["calibrant", *names]


def declared(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", []))


def test_all_is_sorted_and_is_what_dir_lists():
    assert calibrant.__all__ == sorted(calibrant.__all__)
    assert dir(calibrant) == calibrant.__all__


def test_every_public_name_exists_where_it_is_said_to_live():
    for name in calibrant.__all__:
        value = getattr(calibrant, name)
        home = calibrant._HOMES.get(name)
        if home is not None:
            assert value is getattr(importlib.import_module(home), name)
    assert {*calibrant._HOMES, "algorithms", "debug", "qat", "__version__"} == set(
        calibrant.__all__
    )


def test_names_for_type_checkers_are_the_public_ones():
    tree = ast.parse(Path(calibrant.__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    imported = {
        alias.name for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names
    }
    assert imported | {"__version__"} == set(calibrant.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = calibrant.quantise


@pytest.mark.parametrize("statement", ["import calibrant", "import calibrant; dir(calibrant)"])
def test_importing_loads_nothing_heavy(statement):
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(done.stdout))
    assert "calibrant" in loaded
    assert not loaded & HEAVY
    assert not {n for n in loaded if n.startswith("calibrant.")} - {"calibrant._version"}


@pytest.mark.parametrize("name", modules())
def test_module_says_what_it_is_and_lists_what_exists(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    missing = [n for n in declared(module) if not hasattr(module, n)]
    assert not missing


@pytest.mark.parametrize("name", [m for m in modules() if "._" not in m])
def test_every_public_docstring_is_there(name):
    module = importlib.import_module(name)
    bare = []
    for exported in declared(module):
        value = getattr(module, exported)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not (value.__doc__ or "").strip() or _is_generated(value):
            bare.append(exported)
        if inspect.isclass(value):
            bare += [
                f"{exported}.{n}"
                for n, member in vars(value).items()
                if not n.startswith("_") and _is_function(member) and not inspect.getdoc(member)
            ]
    assert not bare, f"{name} has public names without docstrings: {', '.join(bare)}"


def _is_generated(value: object) -> bool:
    """Tell the docstring that `dataclass` writes: the signature of the class."""
    return (value.__doc__ or "").startswith(f"{getattr(value, '__name__', '')}(")


def _is_function(member: object) -> bool:
    return inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
