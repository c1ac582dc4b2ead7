"""A call takes a recipe in any form a person has it in, and a target over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import calibrant
from calibrant.dialects.asked import asked
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from tests.models import NETS
from tests.road import batches, quantize

MAPPING = {"calibrant": 1, "rules": [{"where": "all", "activation": {"bits": 16}}]}
TEXT = "calibrant: 1\nrules:\n  - where: all\n    activation: {bits: 16}\n"


@pytest.mark.parametrize("form", ["mapping", "text", "path", "name of a path", "recipe"])
def test_every_form_of_a_recipe_says_the_same(form: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT, encoding="utf-8")
    forms: dict[str, Any] = {
        "mapping": MAPPING,
        "text": TEXT,
        "path": path,
        "name of a path": str(path),
        "recipe": Recipe(rules=(Rule(AllNodes(), Settings(activation_bits=16)),)),
    }
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds, count=1), forms[form])
    assert {d.spec.bits for d in result.plan.activations} == {16}
    seen = calibrant.observe(model, batches(feeds, count=1), forms[form])
    assert set(seen) == {d.tensor for d in result.plan.activations}


def test_a_target_is_over_the_recipes() -> None:
    assert asked({"calibrant": 1, "target": "layers-only"}).target == "layers-only"
    assert asked({"calibrant": 1, "target": "layers-only"}, "onnxruntime").target == "onnxruntime"
    assert asked(None, "onnxruntime") == Recipe(target="onnxruntime")
    model, feeds = NETS["residual"]()
    result = quantize(model, batches(feeds, count=1), target="onnxruntime")
    assert result.summary["target"] == "onnxruntime"
    with pytest.raises(ConfigValueError, match="Did you mean 'onnxruntime'"):
        quantize(model, batches(feeds, count=1), target="onnxruntim")


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(ConfigTypeError, match="a text, a mapping or a Recipe, not a list"):
        asked([1])  # type: ignore[arg-type]
