"""`calibrant quantize --format` and `--prefix`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx

from calibrant.cli import main
from tests.models import NETS
from tests.road import batches


def test_the_command_writes_a_formats_files_and_the_cosine_of_every_node(tmp_path: Path) -> None:
    model, feeds = NETS["residual"]()
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", **batches(feeds)[0])  # type: ignore[arg-type]
    call = ["quantize", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "c.npz")]
    more = ["--activation", "min-max", "--format", "horizon", "--prefix", "net"]
    assert main([*call, "--out", str(tmp_path / "out"), *more]) == 0
    info = json.loads((tmp_path / "out" / "net_quant_info.json").read_text())
    assert info["nodes"]["conv1"]["cosine"] > 0.9
    assert (tmp_path / "out" / "net_calibrated_model.onnx").is_file()
    assert main([*call, "--out", str(tmp_path / "wrong"), "--format", "horizn"]) != 0
    assert not (tmp_path / "wrong").exists()
