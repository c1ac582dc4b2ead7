"""Layers in bodies are counted, and the message says how they come into the main graph."""

from __future__ import annotations

import numpy as np
import pytest

from calibrant.errors import ModelError
from calibrant.graph import targets
from calibrant.plan import explain, resolve
from calibrant.plan.in_bodies import layers_in_bodies
from calibrant.recipe import Recipe
from tests.models import NETS, Model, Weights, build, normal
from tests.models._text import scalar
from tests.road import prepared

W = Weights(100)


def chosen_by(condition: str, *inputs: str, **inits: object) -> Model:
    """A model of which both layers stand in the branches of one If."""
    listed = ", ".join(("float[N,24] x", *inputs))
    return build(
        f"""net ({listed}) => (float[N,8] y) {{
            {condition}
            y = If (c) <
                then_branch = yes () => (float[N,8] o) {{ o = MatMul (x, w1) }},
                else_branch = no () => (float[N,8] o) {{ o = MatMul (x, w2) }}
            >
        }}""",
        {"w1": W.dense(24, 8), "w2": W.dense(24, 8)}
        | {n: np.asarray(v) for n, v in inits.items()},
        normal(24),
    )


def refusal(model: Model) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(Recipe(), prepared(model))
    return str(caught.value)


def test_a_model_of_branches_alone_names_the_input_that_chooses() -> None:
    text = refusal(chosen_by("c = Equal (sr, k)", "int64 sr", k=16000))
    assert "All layers of the model (2) stand in the bodies of If, Loop or Scan nodes" in text
    assert "node 'y' (If)" in text
    assert "Input 'sr' chooses the branch: fix it (--fix sr=VALUE" in text


def test_two_inputs_that_choose_are_both_named() -> None:
    text = refusal(chosen_by("c = And (a, b)", "bool a", "bool[1] b"))
    assert "Input 'a' and 'b' choose the branch: fix them (--fix a=VALUE --fix b=VALUE" in text


def test_a_branch_that_depends_on_data_cannot_be_fixed() -> None:
    text = refusal(
        chosen_by("m = ReduceMax <keepdims = 0> (x) c = Greater (m, k)", k=np.float32(0))
    )
    assert "depends on the data (input 'x')" in text
    assert "--fix" not in text


def test_a_branch_that_depends_on_a_shape_says_so() -> None:
    text = refusal(chosen_by("s = Shape (x) d = Gather (s, i) c = Equal (d, k)", i=0, k=1))
    assert "shape of input 'x'" in text


def test_layers_in_loops_want_them_unrolled() -> None:
    (inside,) = layers_in_bodies(prepared(NETS["loop"]()), targets.get("generic"))
    assert (inside.node, inside.op_type, inside.layers) == ("turned", "Loop", 1)
    assert "unrolled" in inside.advice


def test_layers_of_every_depth_are_counted_and_a_quantized_model_says_how_many_stay() -> None:
    model = prepared(NETS["if_in_if"]())
    (inside,) = layers_in_bodies(model, targets.get("generic"))
    assert inside.layers == 1
    notes = [n.message for n in resolve(Recipe(), model).notes]
    assert notes == [str(inside)]
    assert notes[0].startswith("1 layer stands in the bodies of node 'inner' (If).")


def test_a_model_without_bodies_has_nothing_to_say() -> None:
    model = prepared(NETS["residual"]())
    assert not layers_in_bodies(model, targets.get("generic"))
    assert not resolve(Recipe(), model).notes


def test_explaining_such_a_model_tells_instead_of_failing() -> None:
    found = explain(Recipe(), prepared(chosen_by("c = Identity (b)", "bool b")))
    assert not found.layers
    assert "--fix b=VALUE" in found.notes[0].message


def test_a_scalar_of_floats_is_a_flag() -> None:
    text = refusal(chosen_by("c = Greater (level, k)", "float[1] level", k=scalar(0)))
    assert "--fix level=VALUE" in text
