from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import calibrant.demo
import calibrant.pipeline
from calibrant.cli import main
from calibrant.cli._progress import progress_bars

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
classifier (float[N, 2, 4, 4] x) => (float[N, 3] scores)
<float[4, 2, 3, 3] w1, float[4] b1, float[3, 4] w2, float[3] b2>
{
   [first] h = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
   [relu] r = Relu(h)
   [pool] p = GlobalAveragePool(r)
   [flat] f = Flatten(p)
   [last] scores = Gemm <transB = 1> (f, w2, b2)
}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with model.onnx, calib.npz and eval.npz."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    for name, shape in (("w1", (4, 2, 3, 3)), ("b1", (4,)), ("w2", (3, 4)), ("b2", (3,))):
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "model.onnx")
    x = rng.standard_normal((24, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    np.savez(tmp_path / "eval.npz", x=x, labels=np.arange(24) % 3)
    return tmp_path


def run(*args: str | Path) -> int:
    return main([str(a) for a in args])


# ---------------------------------------------------------------------------------------------- jobs


def test_quantize_writes_the_results_and_a_summary(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "run"
    assert run("quantize", files / "model.onnx", "--data", files / "calib.npz", "--out", out) == 0
    printed = capsys.readouterr()
    assert {p.name for p in out.iterdir()} >= {
        "deploy.onnx",
        "fake_quant.onnx",
        "summary.json",
        "plan.json",
    }
    assert "2 quantized, 0 left in float" in printed.out
    assert "24 samples" in printed.out
    assert "SQNR, dB" in printed.out
    assert printed.err == ""


def test_quantize_prints_json_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "noisy_data.py").write_text(
        "import numpy as np\ndef batches():\n    print('loading')\n    yield np.ones((4, 2, 4, 4), np.float32)\n"
    )
    sys.path.insert(0, str(files))
    try:
        code = run(
            "quantize",
            files / "model.onnx",
            "--data",
            "noisy_data:batches",
            "--out",
            files / "r",
            "--json",
        )
    finally:
        sys.path.remove(str(files))
    printed = capsys.readouterr()
    assert code == 0
    summary = json.loads(printed.out)
    assert summary["data"]["samples"] == 4
    assert Path(summary["files"][0]).exists()
    assert "loading" in printed.err


def test_options_win_over_the_recipe(files: Path) -> None:
    (files / "recipe.yaml").write_text(
        "calibrant: 1\ntarget: layers-only\nrules:\n- where: all\n"
        "  activation: {algorithm: max, bits: 16}\n  weight: {algorithm: arq, per_channel: true}\n"
    )
    base = (
        "quantize",
        files / "model.onnx",
        "--data",
        files / "calib.npz",
        "--recipe",
        files / "recipe.yaml",
    )
    assert run(*base, "--out", files / "a") == 0
    options = (
        "--activation",
        "percentile",
        "--bits",
        "8",
        "--per-tensor",
        "--target",
        "generic",
        "--skip",
        "last",
    )
    assert run(*base, "--out", files / "b", *options) == 0
    before, after = (json.loads((files / d / "plan.json").read_text()) for d in "ab")
    assert (before["target"], after["target"]) == ("layers-only", "generic")
    activation = [next(t for t in p["tensors"] if t["tensor"] == "x") for p in (before, after)]
    assert [a["type"] for a in activation] == ["int16", "int8"]
    assert [a["algorithm"].split("(")[0] for a in activation] == ["max", "percentile"]
    assert "recipe.yaml:4 rules[0]" in json.dumps(activation[0]["rule"])
    assert "command line --activation" in json.dumps(activation[1]["rule"])
    weights = [next(t for t in p["tensors"] if t["role"] == "weight") for p in (before, after)]
    assert [len(w["scale"]) for w in weights] == [4, 1]
    left = {layer["layer"] for layer in after["layers"] if not layer["quantized"]}
    assert left == {"last"}


def test_preprocess_reaches_the_data(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(
        files / "raw.npz", x=np.random.default_rng(0).integers(0, 256, (8, 2, 4, 4), np.uint8)
    )
    (files / "p.yaml").write_text("mean: 128\nstd: 64\n")
    base = ("quantize", files / "model.onnx", "--data", files / "raw.npz", "--out", files / "r")
    assert run(*base) == 4
    assert "give a preprocessing file" in capsys.readouterr().err
    assert (
        run(
            *base,
            "--preprocess",
            files / "p.yaml",
            "--batch-size",
            "2",
            "--batch-num",
            "3",
            "--json",
        )
        == 0
    )
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["samples"], data["batches"]) == (6, 3)


def test_verbose_logs_steps_and_lists_layers(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("quantize", files / "model.onnx", "--data", files / "calib.npz", "--out", files / "r")
    assert run(*args, "--skip", "first", "-v") == 0
    printed = capsys.readouterr()
    assert "observe" in printed.err
    assert "command line --skip" in printed.out


def test_evaluate_measures_float_and_quantized(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("quantize", files / "model.onnx", "--data", files / "calib.npz", "--out", files / "r")
    capsys.readouterr()
    values = []
    for model in ("model.onnx", "r/deploy.onnx"):
        assert (
            run(
                "evaluate",
                files / model,
                "--data",
                files / "eval.npz",
                "--metric",
                "top1",
                "--json",
            )
            == 0
        )
        result = json.loads(capsys.readouterr().out)
        assert result["samples"] == 24
        values.append(result["value"])
    assert values[0] == pytest.approx(values[1], abs=0.15)
    assert (
        run("evaluate", files / "model.onnx", "--data", files / "eval.npz", "--metric", "top1")
        == 0
    )
    assert capsys.readouterr().out.startswith(f"top1 {values[0]:.6g} ")


def test_init_writes_a_recipe_that_works_as_it_is_and_uncommented(files: Path) -> None:
    recipe = files / "recipe.yaml"
    assert run("init", files / "model.onnx", "-o", recipe) == 0
    text = recipe.read_text()
    assert "{layer: first}" in text
    assert "weight (4, 2, 3, 3)" in text
    base = ("quantize", files / "model.onnx", "--data", files / "calib.npz")
    assert run(*base, "--out", files / "none") == 0
    assert run(*base, "--recipe", recipe, "--out", files / "as_it_is") == 0
    scales = [_scales(files / d) for d in ("none", "as_it_is")]
    assert scales[0] == scales[1]
    recipe.write_text("\n".join(_uncommented(line) for line in text.splitlines()))
    assert run(*base, "--recipe", recipe, "--out", files / "all") == 0
    plan = json.loads((files / "all" / "plan.json").read_text())
    rules = {layer["layer"]: json.dumps(layer["rule"]) for layer in plan["layers"]}
    assert {"first", "last"} <= set(rules)
    assert all(re.search(r"rules\[[3-9]\]", rule) for rule in rules.values())


def _scales(out: Path) -> dict[str, Any]:
    return {
        t["tensor"]: t["scale"] for t in json.loads((out / "plan.json").read_text())["tensors"]
    }


def _uncommented(line: str) -> str:
    stripped = line.lstrip()
    begins = ("# - where", "#   precision", "# symmetric", "# batch_")
    return line.replace("# ", "", 1) if stripped.startswith(begins) else line


def test_init_prints_without_a_file_and_keeps_what_is_there(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", files / "model.onnx") == 0
    assert "calibrant: 1" in capsys.readouterr().out
    (files / "recipe.yaml").write_text("mine")
    assert run("init", files / "model.onnx", "-o", files / "recipe.yaml") == 7
    assert (files / "recipe.yaml").read_text() == "mine"
    assert run("init", files / "model.onnx", "-o", files / "recipe.yaml", "--force") == 0
    assert "calibrant: 1" in (files / "recipe.yaml").read_text()


def test_demo_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def record(out: Path | None, json: bool) -> int:
        seen.append((out, json))
        return 0

    monkeypatch.setattr(calibrant.demo, "run", record)
    assert run("demo", "--out", tmp_path, "--json") == 0
    assert run("demo") == 0
    assert seen == [(tmp_path, True), (None, False)]


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["quantize", "gone.onnx", "--data", "calib.npz"], 3, "'gone.onnx' does not exist"),
        (["quantize", "calib.npz", "--data", "calib.npz"], 3, "is not an ONNX file"),
        (["quantize", "cut.onnx", "--data", "calib.npz"], 3, "truncated"),
        (["quantize", "model.onnx", "--data", "gone.npz"], 4, "'gone.npz' does not exist"),
        (["quantize", "model.onnx", "--data", "wrong_name.npz"], 4, "no array for model input 'x'"),
        (["quantize", "model.onnx", "--data", "wrong_shape.npz"], 4, "expects shape (N, 2, 4, 4), got (3, 2, 4, 5)"),
        (["quantize", "model.onnx", "--data", "empty.npz"], 4, "is empty: 0 samples"),
        (["quantize", "model.onnx", "--data", "nan.npz"], 4, "sample 2 of nan.npz: input 'x' holds NaN"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--skip", "frist"], 5, "Did you mean 'first'"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--activation", "msee"], 5, "Did you mean 'mse'"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--weight", "arqq"], 5, "Did you mean 'arq'"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--target", "generik"], 5, "Did you mean 'generic'"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--bits", "4"], 5, "--bits is 4; it is 8 or 16"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--recipe", "bad.yaml"], 5, "bad.yaml:2: rulez is not known"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--provider", "gpu"], 5, "Unknown provider 'gpu'"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--out", "calib.npz"], 7, "'calib.npz' is a file"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--out", "calib.npz/x"], 7, "is a file"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--batch-size", "0"], 2, "--batch-size"),
        (["quantize", "model.onnx", "--data", "calib.npz", "--frob"], 2, "No such option: --frob"),
        (["quantize", "model.onnx"], 4, "no calibration data. Give some (--data)"),
        (["frobnicate"], 2, "frobnicate"),
        (["tune", "model.onnx", "--data", "calib.npz", "--metric", "sqnr", "--min", "25", "--out", "o"], 5, "or 'sqnr_db'?"),
        (["evaluate", "gone.onnx", "--data", "eval.npz", "--metric", "top1"], 3, "does not exist"),
        (["evaluate", "model.onnx", "--data", "calib.npz", "--metric", "top1"], 4, "no array 'labels'"),
        (["evaluate", "model.onnx", "--data", "eval.npz", "--metric", "top0"], 5, "Unknown metric 'top0'"),
        (["evaluate", "model.onnx", "--data", "eval.npz", "--metric", "sqnr_db"], 5, "calibrant compare FLOAT QUANTIZED"),
        (["init", "gone.onnx"], 3, "does not exist"),
        (["init", "model.onnx", "-o", "gone/recipe.yaml"], 7, "cannot be written"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_bad_input_is_one_sentence_and_a_code(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    text: str,
    as_json: bool,
) -> None:
    monkeypatch.chdir(files)
    raw = (files / "model.onnx").read_bytes()
    (files / "cut.onnx").write_bytes(raw[: len(raw) // 2])
    (files / "bad.yaml").write_text("calibrant: 1\nrulez: []\n")
    x = np.zeros((3, 2, 4, 4), np.float32)
    np.savez("wrong_name.npz", y=x)
    np.savez("wrong_shape.npz", x=np.zeros((3, 2, 4, 5), np.float32))
    np.savez("empty.npz", x=x[:0])
    x[2, 0, 0, 0] = np.nan
    np.savez("nan.npz", x=x)
    before = set(files.iterdir())
    out = ["--out", "run"] if args[0] == "quantize" and "--out" not in args else []
    assert run(*args, *out, *(["--json"] if as_json else [])) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("calibrant: error: ")
    assert printed.err.count("\n") == 1
    assert text in printed.err
    assert set(files.iterdir()) == before
    if as_json:
        error = json.loads(printed.out)["error"]
        assert error["exit_code"] == code
        assert text in error["message"]
    else:
        assert printed.out == ""


def test_a_quantized_model_is_not_quantized_again(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("quantize", files / "model.onnx", "--data", files / "calib.npz", "--out", files / "r")
    capsys.readouterr()
    again = (
        "quantize",
        files / "r" / "deploy.onnx",
        "--data",
        files / "calib.npz",
        "--out",
        files / "s",
    )
    assert run(*again) == 3
    assert "already quantized" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("boom\nin two lines"), 70, "RuntimeError: boom in two lines"),
        (MemoryError(), 70, "MemoryError"),
    ],
)
def test_interruptions_and_faults_have_their_codes(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(calibrant.pipeline, "quantize", fail)
    args = ("quantize", files / "model.onnx", "--data", files / "calib.npz", "--out", files / "r")
    assert run(*args) == code
    printed = capsys.readouterr()
    assert text in printed.err
    assert "Traceback" not in printed.err
    if code == 70:
        with pytest.raises(type(error)):
            run(*args, "--debug")
        monkeypatch.setenv("CALIBRANT_DEBUG", "1")
        with pytest.raises(type(error)):
            run(*args)


# --------------------------------------------------------------------------------- help and start-up


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "calibrant demo" in capsys.readouterr().out
    assert run("quantize", "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in ("calibrant quantize model.onnx --data calib.npz --out run", "module:function", "Default: 8.",
                 "--symmetric", "--asymmetric", "--per-tensor", "--no-bias-correction", "--no-equalize",
                 "--exact", "--skip", "--preprocess", "--threads", "--provider"):  # fmt: skip
        assert part in text
    for command in ("explain", "convert-config", "init"):
        assert run(command, "--help") == 0
        assert f"calibrant {command} " in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("calibrant 0.")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from calibrant.cli import main; main(['--help']); "
        "print('LOADED', [m for m in ('numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'numba', 'pydantic', 'yaml') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_the_package_runs_as_the_command() -> None:
    args = [sys.executable, "-m", "calibrant", "--version"]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("calibrant 0.")


def test_a_closed_pipe_ends_quietly() -> None:
    args = [sys.executable, "-m", "calibrant.cli", "nope", "--json"]
    with subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert "No such command" in err
    assert "Traceback" not in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress_bars(show=True) as update:
        assert update is None  # the tests' stderr is no terminal
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars(show=False) as update:
        assert update is None
    with progress_bars(show=True) as update:
        assert update is not None
        update("load", 0, None)
        update("observe", 0, 3)
        update("observe", 2, 3)
        update("load", 0, None)
    drawn = terminal.getvalue()
    assert "observe" in drawn
    assert "2/3" in drawn


def test_verbose_shows_nodes_and_outputs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = (
        "quantize",
        files / "model.onnx",
        "--data",
        files / "calib.npz",
        "--out",
        files / "run",
    )
    assert run(*args) == 0
    assert "Threshold" not in capsys.readouterr().out
    assert run(*args, "-v") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Node", "Type", "Cosine", "Threshold", "DataType"] in lines
    assert ["Output", "Cosine", "L1", "RMSE", "Chebyshev", "Worst", "sample"] in lines
    first = next(line for line in lines if line[:2] == ["first", "Conv"])
    assert re.fullmatch(r"0\.9\d{5}|1\.000000", first[2])
    assert re.fullmatch(r"\d+\.\d{6}", first[3])
    assert first[4] == "int8"
    assert run(*args, "-v", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [n["node"] for n in content["nodes"]] == ["first", "relu", "pool", "flat", "last"]
    assert content["distances"][0]["name"] == "scores"


def test_a_node_in_float_has_no_threshold(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = (
        "quantize",
        files / "model.onnx",
        "--data",
        files / "calib.npz",
        "--out",
        files / "run",
    )
    assert run(*args, "-v", "--skip", "last") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = next(line for line in lines if line[:2] == ["last", "Gemm"] and len(line) == 5)
    assert row[3:] == ["--", "float32"]
