"""Each check says what is wrong, and is silent where nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import calibrant
from calibrant.diagnose import rank
from calibrant.diagnose.triage import Finding, masks_of, triage
from calibrant.errors import DataError
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.runtime.runtime import CPU
from tests.models import NETS, Feeds, build, sabotaged
from tests.models._text import Weights
from tests.road import outputs

IMAGES = sabotaged.smooth_images()


def found(net: Any, data: Any, recipe: Recipe = rank.PLAIN, **options: Any) -> dict[str, Finding]:
    bench = calibrant.Bench(net, data)
    solved = bench.found(recipe)
    samples = bench.store.samples(recipe)
    all_ = triage(solved, samples, masks_of(solved), runtime=CPU, **options)
    return {f.check: f for f in all_}


def residual() -> onnx.ModelProto:
    return NETS["residual"]()[0]


def x(seed: int = 1, batch: int = 32, feeds: Feeds = IMAGES) -> np.ndarray:
    return feeds(batch=batch, seed=seed)["x"]


@pytest.mark.parametrize("target", ["generic", "onnxruntime", "horizon-like"])
@pytest.mark.parametrize("name", ["residual", "conv_bn_relu", "depthwise_leaky", "gemm_mlp"])
def test_nothing_is_said_of_what_is_right(name: str, target: str) -> None:
    model, feeds = NETS[name]()
    recipe = replace(rank.PLAIN, target=target)
    data, evaluation = feeds(batch=32, seed=1), feeds(batch=32, seed=2)
    assert found(model, data, recipe, evaluation=evaluation) == {}


@pytest.mark.parametrize(
    ("change", "words", "lines"),
    [
        (lambda x: x * 255, "0 to 255 to 0 to 1 is missing", "scale: 0.00392157"),
        (lambda x: x / 255, "0 to 255 to 0 to 1 was done once too often", "scale: 255"),
        (lambda x: (x - 0.45) / 0.225, "ImageNet was done once too often", "std:"),
        (lambda x: x * 7.3, "has mean", ""),
    ],
)
def test_another_scale_is_seen(change: Any, words: str, lines: str) -> None:
    f = found(residual(), {"x": change(x(1)).astype(np.float32)}, evaluation={"x": x(2)})
    assert words in f["likeness"].saw
    assert lines in f["likeness"].preprocess
    assert f["likeness"].word in ("certain", "likely")


def test_the_lines_mend_the_data(tmp_path: Path) -> None:
    twice = ((x(1) - 0.45) / 0.225).astype(np.float32)
    f = found(residual(), {"x": twice}, evaluation={"x": x(2)})
    steps = tmp_path / "steps.yaml"
    steps.write_text(f["likeness"].preprocess + "\nlayout: NCHW\nsource_layout: NCHW\n")
    from calibrant.data.open import open_data
    from calibrant.graph.load import load
    from calibrant.runtime.inputs import model_inputs

    inputs = model_inputs(load(residual()))
    mended = next(iter(open_data({"x": twice}, inputs, preprocess=steps))).feeds["x"]
    assert abs(float(mended.mean()) - float(x(2).mean())) < 0.1
    assert float(mended.std()) == pytest.approx(float(x(2).std()), rel=0.2)


def test_swapped_colours_are_seen() -> None:
    f = found(residual(), {"x": np.ascontiguousarray(x(1)[:, ::-1])}, evaluation={"x": x(2)})
    assert "swapped" in f["channel order"].saw
    assert f["channel order"].preprocess.startswith("color:")


def test_reshaped_images_are_seen() -> None:
    as_pixels = np.ascontiguousarray(x(1).transpose(0, 2, 3, 1))
    f = found(residual(), {"x": as_pixels.reshape(x(1).shape)})
    assert "interleaved" in f["layout"].saw


def test_samples_that_show_nothing_are_seen() -> None:
    data = x(1, batch=24).copy()
    data[3] = 0
    data[5] = 0.5
    data[7] = data[6]
    f = found(residual(), {"x": data})
    assert "1 of 24" in f["black samples"].saw
    assert "1 of 24" in f["constant samples"].saw
    assert "1 of 24" in f["duplicates"].saw
    assert "few samples" not in f
    few = found(residual(), {"x": data[:3]})
    assert few["few samples"].word == "likely"


def test_a_mask_is_seen() -> None:
    model, feeds = sabotaged.masked_scores()
    recipe = replace(rank.PLAIN, target="horizon-like")
    f = found(model, feeds(batch=16, seed=1), recipe)
    assert set(f) == {"mask"}
    assert "placed" in f["mask"].where
    harmless = sabotaged.masked_scores(-8.0)[0]
    assert (
        found(
            harmless, feeds(batch=16, seed=1) | {"mask": np.zeros((16, 1, 8), np.float32)}, recipe
        )
        == {}
    )


def test_sums_that_overflow_are_seen() -> None:
    w = Weights(5)
    model, _ = build(
        """net (float[N,4000] x) => (float[N,4] y) {
            y = MatMul (x, w1)
        }""",
        {"w1": np.abs(w.dense(4000, 4)) + 0.1},
        lambda **_: {},
    )
    data = {"x": (1 + np.random.default_rng(0).random((16, 4000))).astype(np.float32)}
    wide = rank.PLAIN.with_rules(Rule(AllNodes(), Settings(activation_bits=16, weight_bits=16)))
    f = found(model, data, wide)
    assert f["overflow"].word == "certain"
    assert f["overflow"].where == ("y",)
    assert found(model, data) == {}


def test_whole_numbers_are_seen() -> None:
    w = Weights(6)
    model, _ = build(
        """net (float[N,32] x) => (float[N,4] y) {
            y = MatMul (x, w1)
        }""",
        {"w1": w.dense(32, 4)},
        lambda **_: {},
    )
    ids = np.random.default_rng(0).integers(0, 30000, size=(24, 32)).astype(np.float32)
    f = found(model, {"x": ids})
    assert "0 to 2999" in f["integer input"].saw or "whole numbers" in f["integer input"].saw
    pixels = np.random.default_rng(0).integers(0, 256, size=(24, 32)).astype(np.float32)
    assert found(model, {"x": pixels}) == {}


def test_a_shared_weight_is_seen() -> None:
    model, feeds = sabotaged.shared_unlike()
    f = found(model, feeds(batch=24, seed=1))
    assert set(f["shared weight"].where) == {"conv2", "conv3"}
    assert "shared weight" not in found(*shared_alike())


def shared_alike() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model, feeds = NETS["shared_weight"]()
    return model, feeds(batch=24, seed=1)


def test_the_float_model_is_compared_with_its_reference(tmp_path: Path) -> None:
    model, data = residual(), {"x": x(1)}
    right = {"y": outputs(model, data)[0]}
    assert found(model, data, reference=right) == {}
    np.savez(tmp_path / "right.npz", y=right["y"])
    assert found(model, data, reference=tmp_path / "right.npz") == {}
    onnx.save(model, tmp_path / "same.onnx")
    assert found(model, data, reference=tmp_path / "same.onnx") == {}
    f = found(model, data, reference={"y": right["y"] + 0.5})
    assert f["float parity"].word in ("likely", "certain")
    with pytest.raises(DataError, match="none of the model's outputs"):
        found(model, data, reference={"z": right["y"]})


def test_confidence_has_a_word_and_a_number() -> None:
    f = found(residual(), {"x": x(1)[:2]})["few samples"]
    content = f.content()
    assert content["sure"] == "likely"
    assert content["confidence"] == 0.9
