"""Data that a recipe names, and random values in the place of data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from calibrant.dialects import load_recipe
from calibrant.errors import DataError
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import Calibration, Recipe, Source
from calibrant.results import QuantizedModel
from calibrant.solution import NOT_FOR_ACCURACY
from tests.models import NETS
from tests.road import batches, quantize

ASCEND = """device: USE_CPU
quantize_algo: HALF_OFFSET
weight_type: VECTOR_TYPE
preprocess_parameter: {{ input_type: {kind} {extra} input_file_path: "calib" {numbers} }}
"""


def ranges(result: QuantizedModel) -> dict[str, float]:
    return {k: float(p.scale) for k, p in result.params.activations.items()}


def write_binary(path: Path, x: np.ndarray) -> None:
    header = np.array([510, *x.shape], "<i4")
    path.write_bytes(header.tobytes() + x.astype("<f4").tobytes())


@pytest.fixture
def case(tmp_path: Path) -> tuple[onnx.ModelProto, np.ndarray, Path]:
    model, feeds = NETS["conv_bn_relu"]()
    (x,) = feeds(batch=6, seed=3).values()
    (tmp_path / "calib").mkdir()
    return model, x, tmp_path


def test_binary_files_that_an_ascend_file_names_are_read(
    case: tuple[onnx.ModelProto, np.ndarray, Path],
) -> None:
    model, x, folder = case
    write_binary(folder / "calib" / "data.bin", x * 2 + 5)
    path = folder / "cal.cfg"
    path.write_text(
        ASCEND.format(kind="BINARY", extra="", numbers="mean_value: 5 standard_deviation: 2")
    )
    recipe = load_recipe(path)
    found = quantize(model, None, recipe)
    name = model.graph.input[0].name
    given = quantize(model, {name: ((x * 2 + 5) - 5) / np.float32(2)}, recipe, batch_size=1)
    assert ranges(found) == ranges(given)
    assert found.summary["data"]["samples"] == 6
    assert any("names it: calib" in n for n in found.summary["data"]["notes"])
    assert any(
        "not what the configuration names (calib)" in n for n in given.summary["data"]["notes"]
    )


def test_mean_and_deviation_matter(case: tuple[onnx.ModelProto, np.ndarray, Path]) -> None:
    model, x, folder = case
    write_binary(folder / "calib" / "data.bin", x)
    found = []
    for numbers in ("", "mean_value: 0.5", "standard_deviation: 3"):
        path = folder / "cal.cfg"
        path.write_text(ASCEND.format(kind="BINARY", extra="", numbers=numbers))
        found.append(ranges(quantize(model, None, load_recipe(path))))
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_images_that_an_ascend_file_names_are_read(
    case: tuple[onnx.ModelProto, np.ndarray, Path],
) -> None:
    image = pytest.importorskip("PIL.Image")
    model, x, folder = case
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 20, 30, 3), np.uint8)
    for i, p in enumerate(pixels):
        image.fromarray(p).save(folder / "calib" / f"{i}.png")
    path = folder / "cal.cfg"
    found = {}
    for order in ("RGB", "BGR"):
        path.write_text(
            ASCEND.format(
                kind="IMAGE",
                extra=f"image_format: {order}",
                numbers="mean_value: 104 mean_value: 117 mean_value: 123 standard_deviation: 60",
            )
        )
        found[order] = quantize(model, None, load_recipe(path))
    size = x.shape[:1:-1]  # (width, height)
    resized = [
        np.asarray(image.fromarray(p).resize(size, image.Resampling.BILINEAR)) for p in pixels
    ]
    fed = (
        np.stack(resized)[..., ::-1].transpose(0, 3, 1, 2)
        - np.array([104, 117, 123]).reshape(3, 1, 1)
    ) / 60
    name = model.graph.input[0].name
    given = quantize(model, {name: fed.astype(np.float32)}, load_recipe(path), batch_size=1)
    assert ranges(found["BGR"]) == pytest.approx(ranges(given), rel=1e-5)
    assert ranges(found["RGB"]) != ranges(found["BGR"])


def test_batch_count_is_so_many_images(case: tuple[onnx.ModelProto, np.ndarray, Path]) -> None:
    model, x, folder = case
    write_binary(folder / "calib" / "data.bin", x)
    path = folder / "cal.cfg"
    path.write_text(ASCEND.format(kind="BINARY", extra="", numbers="") + "batch_count: 2\n")
    assert quantize(model, None, load_recipe(path)).summary["data"]["samples"] == 2


def test_folders_of_the_old_horizon_chain_are_read(
    case: tuple[onnx.ModelProto, np.ndarray, Path],
) -> None:
    model, x, folder = case
    for i, sample in enumerate(x):
        np.save(folder / "calib" / f"{i}.npy", sample)
    path = folder / "config.yaml"
    path.write_text("calibration_parameters:\n  cal_data_dir: ./calib\n  calibration_type: max\n")
    found = quantize(model, None, load_recipe(path))
    given = quantize(model, {model.graph.input[0].name: x}, load_recipe(path))
    assert ranges(found) == ranges(given)


def test_a_path_is_looked_for_beside_the_recipe_and_then_here(
    case: tuple[onnx.ModelProto, np.ndarray, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, folder = case
    np.save(folder / "calib" / "0.npy", x)
    recipe = Recipe(calibration=Calibration(sources=(Source(path="calib", kind="numbers"),)))
    with pytest.raises(
        DataError, match=r"'calib', which the configuration names as data of input"
    ):
        quantize(model, None, recipe)
    monkeypatch.chdir(folder)
    assert quantize(model, None, recipe).summary["data"]["samples"] == 6


def test_a_folder_without_such_files_is_an_error(
    case: tuple[onnx.ModelProto, np.ndarray, Path],
) -> None:
    model, _, folder = case
    source = Source(path=str(folder / "calib"), kind="images")
    with pytest.raises(DataError, match=r"holds none: .*\.png"):
        quantize(model, None, Recipe(calibration=Calibration(sources=(source,))))


# ----------------------------------------------------------------------------------------- random values


@pytest.mark.parametrize("name", ["conv_bn_relu", "attention_where", "two_in_two_out"])
def test_random_values_do_for_data_and_every_file_says_so(name: str, tmp_path: Path) -> None:
    model, feeds = NETS[name]()
    recipe = Recipe(calibration=Calibration(random=True))
    result = quantize(model, None, recipe)
    result.save(tmp_path)
    assert NOT_FOR_ACCURACY in result.summary["warnings"]
    assert result.summary["data"]["random"] is True
    assert (tmp_path / "record.txt").read_text().startswith(f"# {NOT_FOR_ACCURACY}")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert any(n["message"] == NOT_FOR_ACCURACY for n in plan["notes"])
    for file in ("deploy.onnx", "fake_quant.onnx"):
        props = {p.key: p.value for p in onnx.load(tmp_path / file).metadata_props}
        assert props["calibrant.calibration"] == NOT_FOR_ACCURACY
    record = json.loads((tmp_path / "record.json").read_text())
    assert {"calibration": NOT_FOR_ACCURACY} in record["#calibrant"]
    quantize_from_record(model, tmp_path / "record.json")
    again = quantize(model, batches(feeds), recipe)
    assert ranges(again) == ranges(result)  # the same values each time, and given data is not read
    assert any("is not read" in n for n in again.summary["data"]["notes"])
    with_data = quantize(model, batches(feeds))
    assert ranges(with_data) != ranges(result)
    assert with_data.summary["data"]["random"] is False


@pytest.mark.parametrize(
    ("kind", "floats"),
    [("ascend", set()), ("horizon", {"original_float_model.onnx", "optimized_float_model.onnx"})],
)
def test_files_of_the_vendors_say_so_too(kind: str, floats: set[str], tmp_path: Path) -> None:
    model, feeds = NETS["conv_bn_relu"]()
    for random in (True, False):
        recipe = Recipe(target="layers-only", calibration=Calibration(random=random))
        result = quantize(model, None if random else batches(feeds), recipe)
        files = result.save(tmp_path / str(random), formats=[kind])
        silent = {
            f.name
            for f in files
            if f.suffix == ".onnx"
            and "calibrant.calibration" not in {p.key for p in onnx.load(f).metadata_props}
        }
        assert silent == (floats if random else {f.name for f in files if f.suffix == ".onnx"})
        info = json.loads((tmp_path / str(random) / "quant_info.json").read_text())
        assert info.get("calibration") == (NOT_FOR_ACCURACY if random else None)


def test_the_vendors_skip_does_it_from_the_command_line(tmp_path: Path) -> None:
    model, _ = NETS["conv_bn_relu"]()
    onnx.save(model, tmp_path / "model.onnx")
    recipe = tmp_path / "quant_config.json"
    recipe.write_text('{"model_config": {"activation": {"calibration_type": "skip"}}}')
    args = ["quantize", str(tmp_path / "model.onnx"), "--recipe", str(recipe)]
    assert main([*args, "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"] == {**summary["data"], "samples": 8, "random": True}
