"""Dropouts go at inference, in bodies too; where one may be at work, it stays."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models import Weights, build, normal
from tests.road import op_types, outputs, prepared

W = Weights(90)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("d = Dropout (x)", []),
        ("d = Dropout (x, half)", []),
        ("d = Dropout (x, half, off)", []),
        ("n = Not (on) d = Dropout (x, half, n)", []),
        ("d = Dropout (x, half, on)", ["Dropout"]),
        (
            "d, mask = Dropout (x) m = Cast <to = 1> (mask) e = Mul (d, m)",
            ["Dropout", "Cast", "Mul"],
        ),
    ],
)
def test_a_dropout_goes_unless_it_is_at_work_or_its_mask_is_read(
    text: str, left: list[str]
) -> None:
    last = "e" if "mask" in text else "d"
    model, _ = build(
        f"net (float[N,24] x) => (float[N,8] y) {{ {text} y = MatMul ({last}, w) }}",
        {
            "w": W.dense(24, 8),
            "half": np.float32(0.5),
            "off": np.array(False),
            "on": np.array(True),
        },
        normal(24),
    )
    assert op_types(prepared(model)) == [*left, "MatMul"]


def test_a_training_mode_that_is_an_input_keeps_the_dropout() -> None:
    model, feeds = build(
        "net (float[N,24] x, bool t) => (float[N,8] y) { d = Dropout (x, half, t) y = MatMul (d, w) }",
        {"w": W.dense(24, 8), "half": np.float32(0.5)},
        normal(24),
    )
    made = prepared(model)
    assert op_types(made) == ["Dropout", "MatMul"]
    feed = feeds() | {"t": np.array(False)}
    np.testing.assert_array_equal(outputs(made, feed)[0], outputs(model, feed)[0])


def test_a_dropout_in_a_branch_goes() -> None:
    model, feeds = build(
        """net (float[N,24] x, bool b) => (float[N,8] y) {
            a = MatMul (x, w)
            y = If (b) <
                then_branch = yes () => (float[N,8] o) { r = Relu (a) o = Dropout (r) },
                else_branch = no () => (float[N,8] o) { o = Dropout (a) }
            >
        }""",
        {"w": W.dense(24, 8)},
        normal(24),
    )
    made = prepared(model)
    assert [[n.op_type for n in g] for g in made.graph.subgraphs()] == [["Relu"], ["Identity"]]
    for b in (True, False):
        feed = feeds() | {"b": np.array(b)}
        np.testing.assert_array_equal(outputs(made, feed)[0], outputs(model, feed)[0])
