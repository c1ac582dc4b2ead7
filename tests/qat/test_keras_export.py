"""The how-to for Keras models, as it is written: Keras in an environment of its own, its export, quantized and trained."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import yaml

pytest.importorskip("torch", reason="the backend of Keras here")

import calibrant
from calibrant.cli import main
from calibrant.compat.amct import Net
from tests.qat.quick import RECIPE

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keras.md"

MAKE = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
from keras import layers
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((16, 16, 1), name="image"),
    layers.Conv2D(8, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
    layers.DepthwiseConv2D(3, padding="same"), layers.ReLU(),
    layers.Conv2D(16, 3, strides=2, padding="same"), layers.ReLU(),
    layers.GlobalAveragePooling2D(), layers.Dense(10),
])
samples = np.random.default_rng(0).normal(size=(48, 16, 16, 1)).astype("float32")
np.save("samples.npy", samples)
np.save("answers.npy", keras.ops.convert_to_numpy(model(samples)))
model.save("model.keras")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Return the folder in which the page's code ran."""
    folder = tmp_path_factory.mktemp("keras")
    environment = dict(os.environ)
    if importlib.util.find_spec("keras") is None:
        own = folder / "packages"
        install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(own), "keras"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            pytest.skip(f"Keras cannot be installed here: {done.stderr.strip()[-200:]}")
        environment["PYTHONPATH"] = str(own)
    written = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for code in (MAKE, *written):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=600,
            check=False,
        )
        assert not done.returncode, done.stderr[-2000:]
    return folder


def test_what_keras_exports_is_quantized_and_answers_as_keras_does(exported):
    result = calibrant.quantize(exported / "model.onnx", exported / "calib.npz", latency=False)
    assert len(result.plan.weights) == 4
    answers, samples = (np.load(exported / f"{n}.npy") for n in ("answers", "samples"))
    found = Net(result.deploy)(samples)
    error = np.square(found - answers).sum() / np.square(answers).sum()
    assert -10 * np.log10(error) > 25


def test_what_keras_exports_trains(exported, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    run = ["train", str(exported / "model.onnx"), "--data", str(exported / "calib.npz")]
    run += ["--recipe", str(recipe), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*run, "--batch-size", "12"]) in (0, 8)
    assert len(list(ir.load(tmp_path / "run" / "deploy.onnx").graph.inputs)) == 1
