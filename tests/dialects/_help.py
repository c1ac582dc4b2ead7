"""What the tests of the dialects share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.graph.targets import get
from calibrant.plan.effective import Effective
from calibrant.recipe import Note, Recipe, Settings
from tests.models import NETS

GOLDEN = Path(__file__).parent.parent / "golden" / "dialects"

IFMR = {
    "max_percentile": 0.999999,
    "min_percentile": 0.999999,
    "search_range": (0.7, 1.3),
    "search_step": 0.01,
}


def prepared(net: str) -> ir.Model:
    """Return a network as the pipeline has it before it decides."""
    model = prepare(load(NETS[net]()[0]))
    fuse_batchnorm(model)
    return model


def settings(recipe: Recipe, net: str = "residual") -> tuple[dict[str, Settings], list[Note]]:
    """Return what a recipe means for each node of a network, and what gave way."""
    model, notes = prepared(net), list[Note]()
    effective = Effective(recipe, model, get(recipe.target), notes)
    return {n.name or "": effective.of(n)[0] for n in model.graph}, notes


def of_input(recipe: Recipe, node: str, index: int, net: str = "residual") -> Settings:
    """Return what a recipe means for one input of a node."""
    model = prepared(net)
    effective = Effective(recipe, model, get(recipe.target), [])
    return effective.of(next(n for n in model.graph if n.name == node), index)[0]


def options(s: Settings) -> dict[str, Any]:
    """Return the options of the activation algorithm."""
    assert s.activation is not None
    return dict(s.activation.options)


def meaning(recipe: Recipe) -> Recipe:
    """Return a recipe without origins and notes."""
    return replace(recipe, rules=tuple(replace(r, origin="") for r in recipe.rules), notes=())
