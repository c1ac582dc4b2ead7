"""What tune found as a configuration of training: it loads, means the same layers and widths, and is trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calibrant.demo import digits
from calibrant.dialects import load_recipe
from calibrant.errors import ConfigValueError
from calibrant.recipe import Layer, Recipe, Rule, Settings
from calibrant.tuner.training import training_text
from calibrant.tuning.guide import essence

FOUND = Recipe(
    (
        Rule(Layer("pw1_conv"), Settings.of_precision("int4")),
        Rule(Layer("logits"), Settings.of_precision("float32")),
    )
)


def test_a_recipe_says_the_same_and_trains() -> None:
    again = load_recipe(training_text(FOUND, "qat.yaml", digits.MODEL))
    assert essence(again) == essence(replace(FOUND, training=True))


def test_amcts_file_has_the_same_layers_and_widths() -> None:
    lost: list[str] = []
    text = training_text(FOUND, "qat.cfg", digits.MODEL, lost)
    assert load_recipe(text).training
    assert 'skip_layers: "logits"' in text
    own = text[text.index('layer_name: "pw1_conv"') :]
    assert "INT4" in own[own.index("retrain_weight_quant_config") :]
    assert lost == []


def test_what_amct_has_no_words_for_is_told() -> None:
    wide = Recipe((Rule(Layer("pw1_conv"), Settings.of_precision("int16")),))
    lost: list[str] = []
    training_text(wide, Path("qat.cfg"), digits.MODEL, lost)
    assert any("16 bits" in sentence for sentence in lost)


def test_another_ending_is_refused() -> None:
    with pytest.raises(ConfigValueError, match=r"ends in \.cfg"):
        training_text(FOUND, "qat.txt", digits.MODEL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qat.yaml", "qat.cfg"])
def test_one_step_is_trained_with_it(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    from calibrant.qat import train_files

    path = tmp_path / name
    path.write_text(training_text(FOUND, path, digits.MODEL, []))
    data = {"image": digits.calibration().image[:32]}
    recipe = load_recipe(path)
    _, files = train_files(
        digits.MODEL, data, recipe, out=tmp_path / "run", epochs=1, batch_size=32
    )
    assert any(f.name == "deploy.onnx" for f in files)
