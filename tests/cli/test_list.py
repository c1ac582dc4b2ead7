"""`calibrant list`, and ends of the command line that scripts rely on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant import algorithms
from calibrant.cli import main
from calibrant.dialects import dialects
from calibrant.graph import targets

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,0,0, 0,1,0, 0,0,1, 0.5,0.5,0.5}> { y = MatMul (x, w) }"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
    labels = (x[:, :3] + 0.5 * x[:, 3:]).argmax(axis=1)
    np.savez(tmp_path / "calib.npz", x=x)
    np.savez(tmp_path / "eval.npz", x=x, labels=labels)
    return tmp_path


def names(kind: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["list", kind, "--json"]) == 0
    return [row["name"] for row in json.loads(capsys.readouterr().out)[kind]]


def test_all_that_is_registered_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    known = algorithms.names()
    assert names("algorithms", capsys) == [*known["activation"], *known["weight"]]
    assert names("targets", capsys) == list(targets.builtin())
    assert names("dialects", capsys) == list(dialects())
    assert {"top1", "sqnr", "sqnr_db", "cosine_similarity"} <= set(names("metrics", capsys))


@pytest.mark.parametrize("kind", ["algorithms", "targets", "metrics", "dialects"])
def test_a_list_has_one_line_a_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = names(kind, capsys)
    assert main(["list", kind]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == wanted
    assert all(len(line.split()) > 2 for line in lines)  # each says what it is


def test_what_cannot_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "layers"]) == 2
    assert "'algorithms', 'targets', 'metrics', 'dialects'" in capsys.readouterr().err


def test_a_value_below_a_limit_ends_with_1(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(files / "model.onnx"), "--data", str(files / "eval.npz")]
    words += ["--metric", "top1"]
    assert main([*words, "--min", "1"]) == 0
    assert main([*words, "--min", "1.01"]) == 1
    assert "top1 is 1, below 1.01." in capsys.readouterr().err
    assert main([*words, "--min", "1.01", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["value"], found["min"], found["met"]) == (1.0, 1.01, False)


def typed(text: str | bytes) -> io.TextIOWrapper:
    raw = text.encode() if isinstance(text, str) else text
    return io.TextIOWrapper(io.BytesIO(raw))


def test_a_recipe_on_standard_input(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "calibrant: 1\nrules:\n- {where: all, activation: kl}\n"
    model = str(files / "model.onnx")
    monkeypatch.setattr(sys, "stdin", typed(text))
    assert main(["explain", model, "--recipe", "-", "--all"]) == 0
    assert "kl" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", typed(text))
    assert main(["convert-config", "-", "--to", "native"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# standard input, as a recipe of calibrant's own\n")
    assert "algorithm: kl" in printed
    monkeypatch.setattr(sys, "stdin", typed(""))
    assert main(["explain", model, "--recipe", "-"]) == 5


@pytest.mark.parametrize("name", ["quantize", "sensitivity"])
def test_a_recipe_on_standard_input_decides(
    name: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\ufeffcalibrant: 1\nrules:\n- {where: {layer: nowhere}, activation: kl}\n"
    words = [name, str(files / "model.onnx"), "--data", str(files / "calib.npz")]
    monkeypatch.setattr(sys, "stdin", typed(text))
    assert main([*words, "--out", str(files / "run"), "--recipe", "-"]) == 5
    assert "nowhere" in capsys.readouterr().err


def test_init_starts_from_standard_input(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["init", str(files / "model.onnx"), "--dialect", "amct", "--from", "-"]
    monkeypatch.setattr(sys, "stdin", typed("batch_num: 7\n"))
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["batch_num"] == 7


@pytest.mark.parametrize(
    ("stdin", "said"), [(typed(b"\xff\xfe\x00"), "no text in UTF-8"), (None, "which is closed")]
)
def test_standard_input_is_no_text(
    stdin: io.TextIOWrapper | None,
    said: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["explain", str(files / "model.onnx"), "--recipe", "-"]) == 5
    assert said in capsys.readouterr().err


def test_quiet_prints_warnings_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quantize", str(files / "model.onnx"), "--data", str(files / "calib.npz"), "-q"]
    assert main([*words, "--out", str(files / "run"), "--no-latency"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all("Warning" in line or line.startswith(" ") for line in printed.out.splitlines()[:1])
    assert (files / "run" / "deploy.onnx").exists()


LOUD = {
    "evaluate": ["--metric", "top1"],
    "sensitivity": ["--samples", "2"],
    "advise": ["--samples", "2", "--minutes", "0.01"],
    "tune": ["--min", "0", "--metric", "top1", "--out", "RUN", "--max-trials", "2"],
}


@pytest.mark.parametrize("command", LOUD)
def test_every_long_command_can_be_quiet(
    command: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(files / "run") if w == "RUN" else w for w in LOUD[command]]
    data = ["--data", str(files / "eval.npz")]
    data += ["--eval", str(files / "eval.npz")] if command == "tune" else []
    call = [command, str(files / "model.onnx"), *data, *words, "--quiet"]
    assert main(call) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all("arning" in line or line.startswith(" ") for line in printed.out.splitlines())
    assert main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main([*call, "--verbose"]) == 5
    assert "--quiet and --verbose are given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "--metric", "top1", "--min", "nan"], "--min is nan; it is a number."),
        (["quantize", "--out", "run", "-q", "-v"], "--quiet and --verbose are given"),
    ],
)
def test_options_that_say_nothing(
    words: list[str], said: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(files / "eval.npz")]
    assert main([words[0], str(files / "model.onnx"), *given, *words[1:]]) == 5
    assert said in capsys.readouterr().err


def test_what_stays_in_float_is_told_with_its_reason(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", str(files / "model.onnx"), "--data", str(files / "calib.npz")]
    assert main([*words, "--out", str(files / "run"), "--no-latency", "--skip", "*"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "in float MatMul_y: float32 asked for by command line --skip" in printed


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "calibrant.cli", *words]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_device_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("list", "targets"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 7
    assert done.stderr.splitlines() == [
        "calibrant: error: the output cannot be written: no space is left on the device."
    ]


def test_nobody_listens() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            command("list", "targets"), stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")
