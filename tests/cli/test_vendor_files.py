"""What the command line says of vendors' files: dialects by name, targets, training, what is not done, all errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant.cli import main
from tests.models import NETS

KV = 'kv_cache_quant_config { quant_layers: "a" }\n'
TRAINING = "retrain_data_quant_config { ulq_quantize { } }\nretrain_weight_quant_config { arq_retrain { } }\n"
WRONG = (
    "batch_nun: 2\nactivation_offset: maybe\ncommon_config { arq_quantize { quant_bits: 5 } }\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pools.onnx and calib.npz."""
    model, feeds = NETS["pools"]()
    onnx.save(model, tmp_path / "pools.onnx")
    np.savez(tmp_path / "calib.npz", **feeds(batch=8, seed=0))  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return name


def quantize(*more: str) -> int:
    return main(["quantize", "pools.onnx", "--data", "calib.npz", "--out", "run", *more])


def test_an_empty_cfg_quantizes_with_the_vendors_defaults(folder: Path) -> None:
    assert quantize("--recipe", written(folder, "quant.cfg", "")) == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["target"], summary["layers"]["quantized"]) == ("layers-only", 5)


def test_an_empty_file_is_read_in_the_dialect_that_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written(folder, "empty.txt", "# nothing\n")
    assert main(["explain", "pools.onnx", "--recipe", name]) == 5
    assert "it says nothing" in capsys.readouterr().err
    assert main(["explain", "pools.onnx", "--recipe", name, "--dialect", "amct-cfg"]) == 0
    assert "target layers-only" in capsys.readouterr().out
    assert main(["convert-config", name, "--from", "amct-cfg", "--to", "native"]) == 0
    assert "target: layers-only" in capsys.readouterr().out
    assert main(["init", "pools.onnx", "--dialect", "amct", "--from", name]) == 0
    assert json.loads(capsys.readouterr().out)["conv1"]["quant_enable"] is True


def test_a_horizon_file_chooses_its_target_and_the_command_line_stands_over_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written(
        folder,
        "quant_config.json",
        json.dumps(
            {"model_config": {"all_node_type": "int16", "activation": {"calibration_type": "max"}}}
        ),
    )
    assert quantize("--recipe", name) == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["target"] == "horizon-like"
    assert "Conv weight int16 not supported" in capsys.readouterr().out
    assert quantize("--recipe", name, "--target", "generic") == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["target"] == "generic"
    said = capsys.readouterr().out
    assert "Note: Target 'generic' stands over the recipe's own, 'horizon-like'." in said
    assert quantize("--target", "generic") == 0
    assert "stands over" not in capsys.readouterr().out


def test_a_file_for_training_is_refused_in_one_sentence_and_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written(folder, "retrain.cfg", TRAINING)
    assert quantize("--recipe", name) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("calibrant: error: retrain.cfg is for training with quantization")
    assert "'calibrant explain MODEL --recipe FILE'" in line
    assert main(["explain", "pools.onnx", "--recipe", name]) == 0
    first = capsys.readouterr().out.splitlines()[:3]
    assert any("for training with quantization" in line for line in first)


@pytest.mark.parametrize("command", ["quantize", "explain", "convert-config"])
def test_what_is_not_done_is_an_error_with_strict(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written(folder, "quant.cfg", KV)
    calls = {
        "quantize": ["quantize", "pools.onnx", "--data", "calib.npz", "--out", "run", "--recipe", name],
        "explain": ["explain", "pools.onnx", "--recipe", name],
        "convert-config": ["convert-config", name, "--to", "native"],
    }  # fmt: skip
    assert main(calls[command]) == 0
    told = capsys.readouterr()
    assert "KV caches are not quantized" in told.out + told.err
    assert main([*calls[command], "--strict"]) == 6
    assert capsys.readouterr().err == (
        "calibrant: error: quant.cfg:1:1: KV caches are not quantized: kv_cache_quant_config is left aside.\n"
    )


def test_all_errors_of_a_file_are_told_a_line_each(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["explain", "pools.onnx", "--recipe", written(folder, "quant.cfg", WRONG)]
    assert main(call) == 5
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[2] for line in lines] == [
        "quant.cfg:1:1:",
        "quant.cfg:2:20:",
        "quant.cfg:3:32:",
    ]
    assert main([*call, "--json"]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert [text.split(" ")[0] for text in error["errors"]] == [
        line.split(" ")[2] for line in lines
    ]


def test_all_names_that_the_model_lacks_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'skip_layers: "cnov1"\nskip_layers: "y"\nskip_layer_types: "Cnov2d"\nskip_fusion_layers: "avg1"\n'
    assert main(["explain", "pools.onnx", "--recipe", written(folder, "quant.cfg", text)]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert ["cnov1" in lines[0], "Cnov2d" in lines[1], "avg1" in lines[2]] == [True] * 3
    assert len(lines) == 3
