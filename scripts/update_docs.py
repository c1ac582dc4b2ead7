"""Write the parts of the documentation that the code itself knows.

    python scripts/update_docs.py            write them
    python scripts/update_docs.py --check    change nothing; exit code 1 where a page is not current

They are the options of the command line, the public names with their docstrings, algorithms, targets and
dialects, the package tree, and the import direction.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _api import class_text, docstring_text, member_text
from _marked import ROOT, table, update
from _unloaded import unloaded

import calibrant
from calibrant import algorithms, debug, recipe
from calibrant.graph.targets import WidthLimit

DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "calibrant"


# --------------------------------------------------------------------------------------- command line


def cli() -> str:
    """Return every command with its options, as `--help` has them."""
    from calibrant.cli._app import command
    from calibrant.cli._names import filled

    root = command()
    parts = [_plain(root.epilog)]
    for name, sub in _commands(root):
        rows = [tuple(map(filled, row)) for p in sub.params if (row := _option(p)) is not None]
        parts += [
            f"## `calibrant {name}`",
            _plain(sub.help),
            table(["Option", "What it does", "Default"], rows),
        ]
        if sub.epilog:
            examples = re.findall(r"`([^`]+)`", sub.epilog)
            parts.append("```text\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(parts)


def _commands(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield each command, those of a group behind it."""
    for name, sub in root.commands.items():
        yield name, sub
        if hasattr(sub, "commands"):
            yield from ((f"{name} {inner}", command) for inner, command in _commands(sub))


def _option(param: Any) -> tuple[str, str, str] | None:
    if "--help" in param.opts:
        return None
    if param.param_type_name == "argument":
        return f"`{param.name.upper()}`", f"{param.help} Required.", ""
    flags = ", ".join(f"`{flag}`" for flag in [*param.opts, *param.secondary_opts])
    if param.metavar:
        flags += f" {param.metavar}"
    text = _plain(param.help) + (" Required." if param.required else "")
    shown = param.default not in (None, False, ()) and not callable(param.default)
    return flags, text, f"`{param.default}`" if shown else ""


def _plain(text: str | None) -> str:
    """Return help text as Markdown: `<k>` would be taken for HTML."""
    return re.sub(r"<(\w+)>", r"&lt;\1&gt;", inspect.cleandoc(text or ""))


# --------------------------------------------------------------------------------------------- Python


def functions() -> str:
    """Return the public functions, and the algorithms, with signatures and docstrings."""
    found = [n for n in _public() if inspect.isfunction(getattr(calibrant, n))]
    parts = [f"## `calibrant.{n}`\n\n{member_text(getattr(calibrant, n))}" for n in found]
    parts.append(f"## `calibrant.algorithms`\n\n{docstring_text(algorithms)}")
    inner = {n: getattr(algorithms, n) for n in algorithms.__all__}
    parts += [
        f"### `calibrant.algorithms.{n}`\n\n{member_text(f)}"
        for n, f in inner.items()
        if inspect.isfunction(f)
    ]
    return "\n\n".join(parts)


def debug_functions() -> str:
    """Return the functions of the debug tool, in the order of its page."""
    return "\n\n".join(
        f"## `calibrant.debug.{n}`\n\n{member_text(getattr(debug, n))}" for n in debug.__all__
    )


def training() -> str:
    """Return the functions and classes of `calibrant.qat`, which loads torch; they are read from the source."""
    from calibrant import qat

    parts = []
    for name in qat.__all__:
        home = qat._HOMES.get(name)
        if home is not None and home.endswith(f".{name}"):
            continue  # a module
        value = unloaded(home, name, PACKAGE.parent) if home is not None else getattr(qat, name)
        text = class_text(value) if inspect.isclass(value) else member_text(value)
        parts.append(f"## `calibrant.qat.{name}`\n\n{text}")
        if inspect.isclass(value):
            parts += [f"### `{name}.{n}`\n\n{member_text(f)}" for n, f in _methods(value)]
    for home, listed in MODULES.items():
        parts.append(f"## `{home}`")
        for name in listed:
            text = member_text(
                unloaded(SOURCES.get(home, f"calibrant.{home}"), name, PACKAGE.parent)
            )
            parts.append(f"### `{home}.{name}`\n\n{text}")
    return "\n\n".join(parts)


#: Modules of training: functions that a user calls.
MODULES = {
    "qat.functional": ("ulq", "ulq_weight"),
    "qat.amct": (
        "create_quant_retrain_config",
        "create_quant_retrain_model",
        "restore_quant_retrain_model",
        "save_quant_retrain_model",
    ),
    "qat.horizon": ("prepare", "set_fake_quantize", "export", "convert"),
}
#: Where they stand, if it is another module.
SOURCES = {"qat.amct": "calibrant.qat.amct.functions"}


def results() -> str:
    """Return the public classes that are no part of a recipe."""
    return _classes(of_recipes=False)


def recipes() -> str:
    """Return the public classes that a recipe is made of."""
    return _classes(of_recipes=True)


def _classes(*, of_recipes: bool) -> str:
    parts = []
    for name in _public():
        cls = getattr(calibrant, name)
        if inspect.isclass(cls) and (name in recipe.__all__) == of_recipes:
            parts.append(f"## `calibrant.{name}`\n\n{class_text(cls)}")
            parts += [f"### `{name}.{n}`\n\n{member_text(f)}" for n, f in _methods(cls)]
    return "\n\n".join(parts)


def _public() -> list[str]:
    return sorted(calibrant.__all__, key=str.lower)


def names() -> str:
    """Return the names of the packages behind the public page, one line each."""
    parts = []
    for package in ("recipe", "numerics", "stats", "errors"):
        module = __import__(f"calibrant.{package}", fromlist=["_"])
        rows = []
        for name in module.__all__:
            value = getattr(module, name)
            own = (getattr(value, "__module__", None) or "").startswith("calibrant")
            about = _first_line(inspect.getdoc(value)) if own else "`" + _annotation(value) + "`"
            rows.append((f"`{name}`", about))
        parts += [f"## `calibrant.{package}`", table(["Name", "What it is"], rows)]
    return "\n\n".join(parts)


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(value, (property, classmethod)) or inspect.isfunction(value):
            yield name, value


def _annotation(value: Any) -> str:
    return str(value).replace("typing.", "").replace("calibrant.recipe.where.", "")


def _first_line(doc: str | None) -> str:
    return (doc or "").partition("\n")[0]


# -------------------------------------------------------------------- algorithms, targets and dialects


def activation_algorithms() -> str:
    """Return the activation algorithms with their options."""
    return _algorithms("activation")


def weight_algorithms() -> str:
    """Return the weight algorithms with their options."""
    return _algorithms("weight")


def _algorithms(kind: Any) -> str:
    pages = _pages()
    rows = []
    for name in algorithms.names()[kind]:
        make = algorithms.activation if kind == "activation" else algorithms.weight
        about = _first_line(inspect.getdoc(type(make(name))))
        page = pages.get((kind, name))
        label = f"[`{name}`](../explanation/algorithms/{page})" if page else f"`{name}`"
        options = algorithms.describe(kind, name)
        if not options:
            rows.append((label, about, "", "", "", ""))
        for i, o in enumerate(options):
            head = (label, about) if i == 0 else ("", "")
            rows.append((*head, f"`{o.name}`", f"`{_value(o.default)}`", o.allowed, o.doc))
    return table(["Name", "What it does", "Option", "Default", "Allowed", "Meaning"], rows)


def _value(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _pages() -> dict[tuple[str, str], str]:
    """Return the page of each algorithm; a page says in its first line which it is for."""
    found = {}
    for path in sorted((DOCS / "explanation" / "algorithms").glob("*.md")):
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        kind = "weight" if "weight" in head.lower() else "activation"
        found |= {(kind, name): path.name for name in re.findall(r"`([^`]+)`", head)}
    return found


def targets() -> str:
    """Return the targets as a table of their fields."""
    from calibrant.graph import targets as known

    parts = []
    for name in known.builtin():
        t = known.get(name)
        rows = [
            ("Inputs quantized of", _list(t.anchors)),
            ("Output quantized too, of", _list(t.integer_outputs)),
            ("Stay in integers where their inputs are", _list(t.followers)),
            ("Take integers where their readers do", _list(t.feeders)),
            ("Run inside the layer before them", _list(t.residuals)),
            ("No quantizer in front of", _list(t.fused) if t.integer_outputs else "none"),
            ("One range for input and output", _list(t.shared)),
            ("Inputs take the widest of their widths", _list(t.widest)),
            ("Operands of fewer widths", _limits(t.limits)),
            ("Activations stored", "unsigned" if t.unsigned else "signed"),
            ("Zero point of activations", "0" if t.symmetric else "fits the data"),
            ("Zero points", "yes" if t.zero_points else "none"),
            ("Biases", "int32" if t.integer_bias else "float"),
            ("Widths of activations", ", ".join(map(str, t.activation_bits))),
            ("Widths of weights", ", ".join(map(str, t.weight_bits))),
            ("Channels may be rescaled", "yes" if t.equalize else "no"),
            ("One scale a channel in front of depthwise", "yes" if t.channel_scales else "no"),
            ("Its device is ONNX Runtime here", "yes" if t.measures_latency else "no"),
        ]
        parts += [f"## `{name}`", t.description, table(["Field", "Value"], rows)]
    return "\n\n".join(parts)


def _limits(limits: Sequence[WidthLimit]) -> str:
    """Return limits as text: `Conv input 1: 8; Resize: 8`."""
    said = []
    for limit in limits:
        where = limit.op_type or "all"
        where += f" input {limit.input}" if limit.input is not None else ""
        granted = f" ({', '.join(map(str, limit.granted))} where granted)" if limit.granted else ""
        said.append(f"{where}: {', '.join(map(str, limit.bits))}{granted}")
    return "; ".join(said) or "none"


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def dialects() -> str:
    """Return what recipes may be written in."""
    from calibrant.dialects import dialects as known

    rows = [(f"`{d.name}`", d.title, "yes" if d.dump else "no") for d in known().values()]
    return table(["Dialect", "What it is", "Written too"], rows)


# ---------------------------------------------------------------------------------------- architecture


def packages() -> str:
    """Return the package tree, each file with the first line of its docstring."""
    return "```text\n" + "\n".join(_tree(PACKAGE, 0)) + "\n```"


def _tree(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", folder / "__init__.py", depth)
    entries = sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name))
    for path in entries:
        if path.is_dir() and (path / "__init__.py").exists():
            yield from _tree(path, depth + 1)
        elif path.suffix == ".py" and not path.name.startswith("_"):
            yield _line(path.name, path, depth + 1)


def _line(name: str, path: Path, depth: int) -> str:
    about = _first_line(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
    return f"{'  ' * depth + name:<28} {about}".rstrip()


def layers() -> str:
    """Return the import contracts of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = []
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            rows = [re.sub(r"[()]|calibrant\.", "", layer) for layer in contract["layers"]]
            parts.append("```text\n" + "\n  > ".join(rows) + "\n```")
        else:
            sources = ", ".join(f"`{m}`" for m in contract["source_modules"])
            forbidden = ", ".join(f"`{m}`" for m in contract["forbidden_modules"])
            but = [i.partition(" -> ")[0] for i in contract.get("ignore_imports", [])]
            text = f"- {contract['name']}: {sources} may not import {forbidden}"
            parts.append(text + (f", but for `{', '.join(but)}`." if but else "."))
    return "\n\n".join(parts)


WRITERS = {
    "command line": cli,
    "public functions": functions,
    "debug functions": debug_functions,
    "training": training,
    "results and values": results,
    "parts of recipes": recipes,
    "further names": names,
    "activation algorithms": activation_algorithms,
    "weight algorithms": weight_algorithms,
    "targets": targets,
    "dialects": dialects,
    "package tree": packages,
    "import direction": layers,
}

if __name__ == "__main__":
    pages = sorted(DOCS.rglob("*.md"))
    sys.exit(update("update_docs.py", pages, WRITERS, check="--check" in sys.argv[1:]))
