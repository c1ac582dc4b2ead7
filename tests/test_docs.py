"""The documentation is true: its code runs, its tables are current, its links, keys and numbers exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

import calibrant
from calibrant import algorithms
from calibrant.analysis import better, probe
from calibrant.demo import digits
from calibrant.dialects.native.schema import RecipeDocument
from calibrant.graph import targets
from calibrant.graph.passes import constants, equalize
from calibrant.graph.targets.schema import TargetDocument
from calibrant.recipe import AlgorithmChoice, Layer, OpType, Rule, Settings
from calibrant.runtime import saturation
from calibrant.runtime.part_quality import COLLAPSE_COSINE, COLLAPSE_SQNR_DB
from calibrant.stats.tensor import FEW
from calibrant.tuning import biases, extent, integer_outputs, left_in_float
from calibrant.tuning import forms as variants
from calibrant.tuning import ranges as decide
from calibrant.tuning.strategies.ranges import ADDED_GAIN_DB, FIRST_SAMPLES
from tests._page import commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
#: Pages whose links are checked: the site has these as well.
LINKED = [
    *PAGES,
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
]
FENCE = re.compile(r"<!-- (\w+) -->\n```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)

#: Numbers that pages take from the code: page, sentence, values.
FACTS = [
    ("explanation/decisions.md", "at least {:.0f} dB in some part", (ADDED_GAIN_DB,)),
    ("explanation/decisions.md", "at most {}, or more", (extent.SCORE_SAMPLES,)),
    (
        "explanation/decisions.md",
        "alone leave at most {:.0f} dB stay in float32, if the outputs gain at least {:.0f} dB",
        (left_in_float.HOPELESS_DB, left_in_float.GAIN_DB),
    ),
    ("how-to/warnings.md", "where it is {:.0f} dB or more", (integer_outputs.SAID_DB,)),
    ("how-to/warnings.md", "where the output has {:.0f} dB or more", (saturation.GOOD_DB,)),
    ("explanation/decisions.md", "judged on {} samples, and on twice", (FIRST_SAMPLES,)),
    ("explanation/decisions.md", "stay below {} million", (extent.SCORE_VALUES // 10**6,)),
    (
        "explanation/decisions.md",
        "at most {} and at most {} MiB, are the probe",
        (probe.PROBE_SAMPLES, probe.PROBE_BYTES >> 20),
    ),
    ("explanation/decisions.md", "`{}` against `{}`", decide.AUTO_ALGORITHMS[::-1]),
    ("reference/algorithms.md", "measures `{}` and `{}`", decide.AUTO_ALGORITHMS),
    ("explanation/equalization.md", "at least {:.0f} dB better", (ADDED_GAIN_DB,)),
    ("explanation/equalization.md", "more than {:.0f} times the median", (variants.UNEVEN,)),
    ("explanation/equalization.md", "divided by {:.0f})", (equalize.SHRINK_LIMIT,)),
    ("explanation/equalization.md", "the limit of {:.0f}", (equalize.GROW_LIMIT,)),
    ("explanation/statistics.md", "Up to {:,} distinct values", (FEW,)),
    ("architecture.md", "Up to {:,} distinct values", (FEW,)),
    ("architecture.md", "must gain {:.0f} dB", (ADDED_GAIN_DB,)),
    (
        "how-to/warnings.md",
        "below {:.0f} dB or cosine below {}",
        (COLLAPSE_SQNR_DB, COLLAPSE_COSINE),
    ),
    ("explanation/bias-correction.md", "at least {}", (biases.CORRECTION_SAMPLES,)),
    (
        "explanation/decisions.md",
        "on {} to {} of them",
        (extent.LEAST_MEASURED_SAMPLES, extent.MEASURED_SAMPLES),
    ),
    (
        "explanation/decisions.md",
        "more than {} million values",
        (extent.AFFORDABLE_VALUES // extent.MEASURED_SAMPLES // 10**6,),
    ),
    (
        "explanation/decisions.md",
        "expected](equalization.md#what-is-not-tried) to gain {:.0f} dB, or all",
        (variants.WORTH_DB,),
    ),
    ("explanation/decisions.md", "all quantizers together {} dB", (better.TOLERATED_DB,)),
    (
        "explanation/equalization.md",
        "of no layer ({:.0f} dB), and take less than {} dB",
        (variants.WORTH_DB, better.TOLERATED_DB),
    ),
    ("explanation/bias-correction.md", "gains {} dB beyond", (biases.ENOUGH_DB,)),
    ("how-to/models.md", "over {} MiB more", (constants.GROWTH_LIMIT >> 20,)),
    ("how-to/data.md", "first {} samples are also the *probe*", (probe.PROBE_SAMPLES,)),
]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------- code that runs


def pages_with(mark: str) -> list[Path]:
    return [p for p in PAGES if any(m[1] == mark for m in FENCE.finditer(text_of(p)))]


@pytest.mark.parametrize("page", pages_with("runs"), ids=name_of)
def test_code_runs_as_it_stands(page, tmp_path):
    """Blocks behind `<!-- runs -->` run in order; Python blocks of one page see each other's names."""
    blocks = [(m[2], m[3]) for m in FENCE.finditer(text_of(page)) if m[1] == "runs"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("_page.py"))],
        input=json.dumps(blocks),
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_blocks_of_a_page_that_fail_are_seen(tmp_path):
    """The runner of pages tells a command that fails, a shell that fails and Python that fails."""
    for block in (
        ("bash", "calibrant init missing.onnx -o a.yaml\n"),
        ("bash", "cat missing.txt\n"),
        ("python", "raise SystemExit('no')\n"),
    ):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("_page.py"))],
            input=json.dumps([block]),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode != 0, block


def test_commands_are_found_among_shell():
    block = "calibrant init a.onnx -o 'b c.yaml'\ncat > r <<'END'\ncalibrant: 1\ncalibrant x\nEND\ncalibrant list | cat\n"
    assert list(commands(block)) == [
        ["init", "a.onnx", "-o", "b c.yaml"],
        "cat > r <<'END'\ncalibrant: 1\ncalibrant x\nEND\ncalibrant list | cat\n",
    ]


@pytest.mark.parametrize("page", pages_with("recipe"), ids=name_of)
def test_recipes_load(page):
    for match in FENCE.finditer(text_of(page)):
        if match[1] == "recipe":
            assert calibrant.load_recipe(match[3]).rules


def test_targets_of_the_pages_load(tmp_path):
    page = DOCS / "how-to" / "add-a-target.md"
    found = [m[3] for m in FENCE.finditer(text_of(page)) if m[1] == "target"]
    assert len(found) == 2
    for text in found:
        (tmp_path / "my_npu.yaml").write_text(text, encoding="utf-8")
        targets.get(tmp_path / "my_npu.yaml")


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "how-to" / "targets.md"], ids=name_of)
def test_the_choice_of_a_target_names_each(page):
    table = text_of(page).partition("| `--target` |\n")[2].partition("\n\n")[0]
    named = re.findall(r"\| `([\w-]+)`(?: \(the default\))? \|$", table, re.MULTILINE)
    assert sorted(named) == targets.builtin()


def test_first_lines_begin_with_what_the_model_will_run_on():
    page = text_of(ROOT / "README.md")
    shell, python = (m[3] for m in list(FENCE.finditer(page))[:2])
    assert shell.startswith("calibrant list targets")
    assert page.index("## What will it run on?") < page.index("<!-- runs -->")
    assert all(
        "--target " in line for line in re.findall(r"^calibrant init .*", shell, re.MULTILINE)
    )
    first = next(line for line in shell.splitlines() if line.startswith("calibrant quantize"))
    assert "--target onnxruntime" in first
    assert 'target="onnxruntime"' in python


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_that_pages_give_to_commands_exist(page):
    """Also in code that is not run: the reference, which is made from the commands, has every option."""
    sections = re.split(r"^## `", text_of(DOCS / "reference" / "cli.md"), flags=re.MULTILINE)
    known = {s.partition("`")[0]: set(re.findall(r"--[\w-]+", s)) for s in sections}
    assert len(known) > 20
    text = text_of(page).replace("\\\n", " ")
    for name, rest in re.findall(
        r"(?<![\w/.-])(calibrant (?:debug )?[a-z][a-z-]+)([^\n`|]*)", text
    ):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", rest):
            assert option in known.get(name, ()), f"{name_of(page)}: {name} has no {option}"


def test_every_key_of_a_target_is_on_its_page():
    rows = re.findall(
        r"^\| (`.+?`) \|", text_of(DOCS / "how-to" / "add-a-target.md"), re.MULTILINE
    )
    said = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert said == set(TargetDocument.model_fields) - {"calibrant_target"}


# ------------------------------------------------------------------------------------ generated parts


@pytest.mark.parametrize("script", ["update_docs.py", "update_readme_tables.py"])
def test_written_parts_are_current(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("python*.md")), ids=name_of)
def test_signatures_are_python(page):
    """A signature is what stands first behind a heading; a body makes a definition of it."""
    blocks = re.findall(
        r"^##+ `.+`\n\n```python\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE
    )
    for block in blocks:
        is_function = re.search(r"^def ", block, re.MULTILINE) or "__init__" in block
        ast.parse(block.rstrip() + (": ..." if is_function else ""))
    assert blocks or page.stem == "python-packages"


def test_every_figure_of_the_readme_stands_in_the_results():
    results = " ".join(text_of(p) for p in (ROOT / "benchmarks" / "results").glob("*.md"))
    known = set(re.findall(r"\d+\.\d+", results))
    parts = re.findall(
        r"<!-- written by scripts/update_readme.*?<!-- end -->",
        text_of(ROOT / "README.md"),
        re.DOTALL,
    )
    figures = {f for part in parts for f in re.findall(r"\d+\.\d+", part)}
    assert len(figures) > 50
    assert figures <= known


# ------------------------------------------------------------------------------------------- structure


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    """As the build of the site checks them, which CI leaves out; what lies outside of docs/ has to be text to be shown."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)} links {target}"
        shown = linked.is_relative_to(DOCS) or linked.suffix in {".md", *site_languages()}
        assert shown, f"{name_of(page)} links {target}, which the site cannot show"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", text_of(linked), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in heads]
            assert anchor in anchors, f"{name_of(page)} links {target}"


def site_languages() -> set[str]:
    """Return the kinds of code that become a page of the site, from the hook that makes it."""
    text = text_of(ROOT / "scripts" / "_site.py")
    found = re.search(r"^LANGUAGES = ({.*})$", text, re.MULTILINE)
    assert found is not None
    return set(ast.literal_eval(found[1]))


def test_the_site_has_every_page():
    """`scripts/docs` builds the site and checks the same links again; this needs no package of its own."""
    text = text_of(ROOT / "mkdocs.yml")
    nav = re.findall(r": (\S+\.md)$", text, re.MULTILINE)
    ours = {p for p in nav if not p.startswith("project/")}
    assert ours == {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert all((ROOT / p.removeprefix("project/")).exists() for p in nav if p not in ours)
    assert len(nav) == len(set(nav))


def test_the_description_on_an_index_has_no_link_into_the_repository():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    readme = text_of(ROOT / "README.md")
    bare = build.described(readme, None)
    assert "](docs/" in readme
    assert re.findall(r"\]\((?!https?://)[^)]*\)", bare) == []
    whole = build.described(readme, "https://example.org/calibrant/")
    assert "](https://example.org/calibrant/docs/tutorial.md)" in whole


def test_every_page_is_reached_from_the_index():
    seen, queue = set(), [DOCS / "index.md"]
    while queue:
        page = queue.pop().resolve()
        if page in seen or page.suffix != ".md" or DOCS not in page.parents:
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", text_of(page))
        queue += [page.parent / t for t in links if not t.startswith("http")]
    assert {name_of(p) for p in DOCS.rglob("*.md")} == {name_of(p) for p in seen}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_one_idea_in_plain_lines(page):
    text = text_of(page)
    assert text.startswith("# ")
    assert text.endswith("\n")
    written = re.sub(r"<!-- written by.*?<!-- end -->", "", text, flags=re.DOTALL)
    assert len(written.splitlines()) <= 220, "a long page hides its idea"


def test_pages_that_the_code_cites_are_there():
    """Readers see the repository alone, so a docstring cites a page of it, or what is public."""
    cited = set()
    for path in sorted((ROOT / "src").rglob("*.py")):
        cited |= {(path.name, name) for name in re.findall(r"[\w./-]+\.md\b", text_of(path))}
    pages = {c for c in cited if c[1].startswith("docs/")}
    assert len(pages) > 30
    assert [c for c in sorted(pages) if not (ROOT / c[1]).exists()] == []
    assert {name for _, name in cited - pages} <= {"data/README.md", "tuning_report.md"}


def test_every_algorithm_has_a_page():
    heads: dict[tuple[str, str], str] = {}
    for path in (DOCS / "explanation" / "algorithms").glob("*.md"):
        head = text_of(path).partition("\n")[0]
        kind = "weight" if "weight" in head else "activation"
        heads |= {(kind, name): path.name for name in re.findall(r"`([^`]+)`", head)}
    for kind, names in algorithms.names().items():
        ours = [n for n in names if type_of(kind, n).__module__.startswith("calibrant.")]
        assert [n for n in ours if (kind, n) not in heads] == []


def type_of(kind: str, name: str) -> type:
    make = algorithms.activation if kind == "activation" else algorithms.weight
    return type(make(name))


# --------------------------------------------------------------------------------- what pages say of code


@pytest.mark.parametrize(("page", "sentence", "values"), FACTS)
def test_numbers_are_those_of_the_code(page, sentence, values):
    text = " ".join(text_of(DOCS / page).split())
    assert sentence.format(*values) in text


def test_warnings_are_those_of_the_code():
    source = " ".join(text_of(p) for p in (ROOT / "src" / "calibrant").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # texts of several lines
    page = text_of(DOCS / "how-to" / "warnings.md")
    quoted = re.findall(r"^## `(.+)`$", page, re.MULTILINE)
    quoted += [
        q
        for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
        for q in re.findall("`(.+?)`", row)
    ]
    assert len(quoted) > 8
    for text in quoted:
        for part in text.split("…"):
            assert part.strip(" '") in source, f"no warning says '{part}'"


def test_recipe_reference_has_every_key_and_no_other():
    page = text_of(DOCS / "reference" / "recipe.md")
    cells = re.findall(r"^\| (.+?) \|", page, re.MULTILINE)
    said = {name for cell in cells for name in re.findall(r"`([a-z_.]+)`", cell)}
    said |= set(re.findall(r"`((?:where|notes|search|limits)\.[a-z.]+)`", page))
    told_once = (
        "rules.candidates.",
        "rules.where.all_of.",
        "limits.where.",
    )  # as `rules` and `where`
    keys = {k for k in recipe_keys(RecipeDocument) if not k.startswith(told_once)}
    shorter = {k.removeprefix("rules.") for k in keys}
    sections = {k for k in shorter if any(s.startswith(f"{k}.") for s in shorter)}
    said -= {"native", "all", *dialect_names()}
    assert said <= shorter
    assert shorter - sections <= said


def dialect_names() -> list[str]:
    from calibrant.dialects import dialects

    return list(dialects())


def recipe_keys(
    model: type[BaseModel], prefix: str = "", outer: tuple[type[BaseModel], ...] = ()
) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in inner_models(field.annotation):
            if inner not in outer:  # `where` may hold further `where`
                yield from recipe_keys(inner, f"{prefix}{name}.", (*outer, model, inner))


def inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from inner_models(argument)


# ------------------------------------------------------------------------------------------- artefacts


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Keys of every JSON file of two runs that between them use everything."""
    data = {"image": digits.calibration().image[:32]}
    rules = (
        Rule(Layer("stem_conv"), Settings(compute="float16")),
        Rule(Layer("pw1_conv"), Settings(balance=0.5, bias_samples=2)),
        Rule(OpType("LSTM"), Settings(weight_bits=16), force="wished"),
        Rule(Layer("pw2_conv"), Settings(weight=AlgorithmChoice.of("nuq", {"levels": 16}))),
    )
    busy = calibrant.Recipe(rules=rules, target="onnxruntime")
    found: dict[str, set[str]] = {}
    for name, recipe in (("default", None), ("busy", busy)):
        folder = tmp_path_factory.mktemp(name)
        per_node = name == "busy"
        calibrant.quantize(digits.MODEL, data, recipe, per_node=per_node).save(folder)
        for file in folder.glob("*.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            found.setdefault(file.name, set()).update(keys_of(content))
    return found


def keys_of(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{prefix}.{key}" if prefix else key
            yield from keys_of(inner, path) if isinstance(inner, dict) and inner else [path]
            if isinstance(inner, list):
                yield from keys_of(inner, path)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                yield from keys_of(inner, f"{prefix}[]")


#: Keys that are names: of outputs, stages, fields of settings, layers.
NAMED = {
    "summary.json": [
        (r"quality\.outputs\.[^.]+\.", "quality.outputs.<name>."),
        (r"decisions\[\]\.outputs\..+$", "decisions[].outputs"),
        (r"quality\.saturated_here\..+", "quality.saturated_here"),
        (r"time_s\..+", "time_s.<stage>"),
        (r"nodes\[\]\.thresholds\..+", "nodes[].thresholds"),
    ],
    "plan.json": [
        (r"layers\[\]\.settings\..+", "layers[].settings.<field>"),
        (r"(layers|tensors)\[\]\.rule\..+", r"\1[].rule"),
    ],
    "record.json": [(r"^#calibrant.*", "#calibrant"), (r"^.+\.", "<layer>.")],
}


@pytest.mark.parametrize("file", ["summary.json", "plan.json", "record.json"])
def test_artefacts_reference_has_every_key_and_no_other(file, artefacts):
    page = text_of(DOCS / "reference" / "artefacts.md")
    section = next(
        s
        for s in re.split(r"^## ", page, flags=re.MULTILINE)
        if s.partition("\n")[0].endswith(file)
    )
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    said = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    there = set()
    for key in artefacts[file]:
        for pattern, name in NAMED[file]:
            key = re.sub(pattern, name, key)
        there.add(key)
    there -= {
        k for k in there if file == "plan.json" and k.startswith("notes[]")
    }  # as in the summary
    lists = {k.partition("[]")[0] for k in there if "[]" in k}  # a list is said by what is in it
    nullable = {k for k in there if any(s.startswith(f"{k}.") for s in said)}  # null in one run
    used = {
        "<layer>.is_tensor_quantize"
    }  # a product of two activations, which the digits network lacks
    assert there - lists - nullable - said == set()
    assert said - there - used == set()


def test_files_are_those_that_save_writes(tmp_path):
    data = {"image": digits.calibration().image[:8]}
    written = {p.name for p in calibrant.quantize(digits.MODEL, data).save(tmp_path)}
    for page in (ROOT / "README.md", DOCS / "reference" / "artefacts.md"):
        head = text_of(page).partition("## summary.json")[0]
        cells = re.findall(r"^\| (`.+?) \|", head, re.MULTILINE)
        said = {f for cell in cells for f in re.findall(r"`([\w.]+\.(?:onnx|json|txt))`", cell)}
        assert said == written


def test_side_by_side_table_is_what_algorithms_choose():
    """Two columns of the table, to the digits it has; other processors may differ in the last."""
    page = text_of(DOCS / "explanation" / "algorithms" / "index.md")
    bulk = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    for column, x in ((0, bulk), (2, np.append(bulk, np.float32(100)))):
        stats = calibrant.TensorStats.of(x)
        for row in re.findall(r"^\| `([\w-]+)` \| (\[.+) \|$", page, re.MULTILINE):
            low, high, _ = map(float, re.findall(r"-?\d+\.?\d*", row[1].split(" | ")[column]))
            chosen = algorithms.activation(row[0])(stats, calibrant.QuantSpec()).range
            assert [float(v) for v in chosen] == pytest.approx([low, high], abs=0.02), row[0]
