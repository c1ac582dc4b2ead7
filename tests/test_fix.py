"""`--fix`, from Python, a recipe and the command line: an input chooses the branch that is quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from calibrant import load_recipe
from calibrant.cli import main
from calibrant.dialects.native.dump import dump
from calibrant.errors import ConfigError, ModelError, UnsupportedError
from calibrant.pipeline import observe
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import Recipe
from tests.models import Array, Model, Weights, build, normal
from tests.road import batches, outputs, quantize, sqnr_db

W = Weights(120)


def switched() -> Model:
    """Two networks in one: the sampling rate, the first of the inputs, chooses; a flag puts a dropout to work."""
    return build(
        """net (int64 sr, float[N,24] x, bool training) => (float[N,8] y) {
            c = Equal (sr, k)
            d = Dropout (x, half, training)
            y = If (c) <
                then_branch = fast () => (float[N,8] o) { m = MatMul (d, w1) r = Relu (m) o = MatMul (r, w2) },
                else_branch = slow () => (float[N,8] o) { o = MatMul (d, w3) }
            >
        }""",
        {
            "w1": W.dense(24, 8),
            "w2": W.dense(8, 8),
            "w3": W.dense(24, 8),
            "k": np.array(16000),
            "half": np.float32(0.5),
        },
        normal(24),
    )


FIX: dict[str, Any] = {"sr": 16000, "training": False}


def fed(feed: dict[str, Array], rate: int) -> dict[str, Array]:
    return feed | {"sr": np.array(rate), "training": np.array(False)}


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    model, feeds = switched()
    onnx.save(model, tmp_path / "model.onnx")
    data = batches(feeds)
    np.savez(tmp_path / "data.npz", x=np.concatenate([b["x"] for b in data]))
    return tmp_path


@pytest.mark.parametrize(("rate", "layers"), [(16000, 2), (8000, 1)])
@pytest.mark.parametrize("keep", [False, True])
def test_the_layers_of_the_chosen_branch_are_quantized(rate: int, layers: int, keep: bool) -> None:
    model, feeds = switched()
    fix = {"sr": rate, "training": False}
    result = quantize(model, batches(feeds), fix=fix, keep_fixed_inputs=keep)
    assert len(result.plan.weights) == layers
    feed = feeds(batch=8, seed=9)
    for made in (result.deploy, result.fake_quant):
        names = [v.name for v in made.graph.inputs]
        assert names == (["sr", "x", "training"] if keep else ["x"])
        assert "If" not in [n.op_type for n in made.graph]
        assert sqnr_db(outputs(model, fed(feed, rate)), outputs(made, feed, optimize=False)) > 20
    session = ort.InferenceSession(result.to_bytes())
    found = session.run(None, fed(feed, 1) if keep else {"x": feed["x"]})
    assert sqnr_db(outputs(model, fed(feed, rate)), found) > 12
    said = [n["message"] for n in result.summary["notes"]]
    assert any(s.startswith(f"Input 'sr' is fixed to {rate}.") for s in said)
    assert result.summary["quality"]["outputs"]["y"]["sqnr_db"] > 12


def test_without_it_the_model_is_refused_with_the_way_out() -> None:
    model, feeds = switched()
    data = [fed(b, 16000) for b in batches(feeds)]
    with pytest.raises(ModelError, match=r"All layers of the model \(3\).*--fix sr=VALUE"):
        quantize(model, data)


def test_data_may_hold_the_fixed_input_or_not() -> None:
    model, feeds = switched()
    with_rate = [fed(b, 16000) for b in batches(feeds)]
    one, two = (quantize(model, d, fix=FIX) for d in (batches(feeds), with_rate))
    assert one.record.text() == two.record.text()
    assert observe(model, batches(feeds), fix=FIX).tensors


def test_a_recipe_says_it_and_a_call_stands_over_the_recipe() -> None:
    model, feeds = switched()
    recipe = load_recipe("calibrant: 1\nfix: {sr: 8000, training: false}\nkeep_fixed_inputs: on\n")
    assert [str(f) for f in recipe.fix] == ["sr=8000", "training=false"]
    assert len(quantize(model, batches(feeds), recipe).plan.weights) == 1
    over = quantize(model, batches(feeds), recipe, fix={"sr": 16000})
    assert len(over.plan.weights) == 2
    assert [v.name for v in over.deploy.graph.inputs] == ["sr", "x", "training"]


@pytest.mark.parametrize(
    "fix",
    ["{}", "{sr: 16000}", "{a: [1, 2], b: [[1.5], [2]], c: yes, d: off, e: true, 'f:0': 0.25}"],
)
def test_a_recipe_reads_back_what_it_writes(fix: str) -> None:
    recipe = load_recipe(f"calibrant: 1\nfix: {fix}\n")
    assert load_recipe(dump(recipe)) == recipe


def test_the_line_of_a_recipe_stands_in_front_of_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("calibrant: 1\nfix:\n  training: false\n  srr: 16000\n")
    model, feeds = switched()
    with pytest.raises(
        ConfigError, match=r"^r.yaml:4 fix.srr: the model has no input 'srr'.*mean 'sr'"
    ):
        quantize(model, batches(feeds), path)
    path.write_text("calibrant: 1\nfix: {sr: {a: 1}}\n")
    with pytest.raises(ConfigError, match=r"r.yaml:2"):
        load_recipe(path)


@pytest.mark.parametrize("keep", [False, True])
def test_a_record_builds_the_same_models_from_the_model_as_it_was_given(keep: bool) -> None:
    model, feeds = switched()
    result = quantize(model, batches(feeds), fix=FIX, keep_fixed_inputs=keep)
    again = quantize_from_record(model, result.record, latency=False)
    assert again.to_bytes() == result.to_bytes()
    assert again.record.text() == result.record.text()


def test_vendors_files_have_the_inputs_of_the_written_model(tmp_path: Path) -> None:
    model, feeds = switched()
    for keep in (False, True):
        result = quantize(model, batches(feeds), fix=FIX, keep_fixed_inputs=keep)
        folder = tmp_path / str(keep)
        result.save(folder, formats=("ascend", "horizon"))
        for path in folder.glob("*.onnx"):
            names = [v.name for v in onnx.load(path).graph.input]
            assert names == (["sr", "x", "training"] if keep else ["x"]), path.name


def test_other_dialects_cannot_say_it() -> None:
    from calibrant.dialects.amct.write import create_config

    recipe = Recipe(fix=load_recipe("calibrant: 1\nfix: {sr: 16000}\n").fix, target="layers-only")
    with pytest.raises(UnsupportedError, match=r"cannot say: .*fixed inputs \(sr=16000\)"):
        create_config(switched()[0], config=recipe)


# ------------------------------------------------------------------------------------- command line


def run(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([w.replace("@", f"{folder}/") for w in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


QUANTIZE = ("quantize", "@model.onnx", "--data", "@data.npz", "--out", "@run", "--no-latency")
BOTH = ("--fix", "sr=16000", "--fix", "training=false")


def test_quantize_takes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(folder, capsys, *QUANTIZE, *BOTH)
    assert code == 0
    assert "Input 'sr' is fixed to 16000." in " ".join(out.split())
    assert [v.name for v in onnx.load(folder / "run" / "deploy.onnx").graph.input] == ["x"]
    code, _, err = run(folder, capsys, *QUANTIZE, *BOTH, "--keep-fixed-inputs")
    assert code == 0, err
    names = [v.name for v in onnx.load(folder / "run" / "deploy.onnx").graph.input]
    assert names == ["sr", "x", "training"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rs=16000", "--fix rs=16000: the model has no input 'rs'"),
        ("sr=fast", "--fix sr=fast: input 'sr' is int64; it is fixed to a whole number"),
        ("sr=[1,2]", "--fix sr=[1,2]: input 'sr' has shape []; the value has shape [2]."),
        ("sr", "--fix is 'sr'; it is NAME=VALUE"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    code, _, err = run(folder, capsys, *QUANTIZE, "--fix", text)
    assert code == 5
    assert said in err


def test_init_writes_it_and_quantize_reads_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, capsys, "init", "@model.onnx", "-o", "@r.yaml", *BOTH)[0] == 0
    text = (folder / "r.yaml").read_text(encoding="utf-8")
    assert "The 2 layers of this model" in text
    assert [str(f) for f in load_recipe(folder / "r.yaml").fix] == ["sr=16000", "training=false"]
    assert run(folder, capsys, *QUANTIZE, "--recipe", "@r.yaml")[0] == 0


def test_init_for_a_vendor_says_that_its_file_does_not_say_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(folder, capsys, "init", "@model.onnx", "--dialect", "amct", *BOTH)
    assert code == 0
    assert len([k for k, v in json.loads(out).items() if isinstance(v, dict)]) == 2
    assert "'calibrant quantize' needs --fix sr=16000, too." in " ".join(err.split())


def test_explain_takes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "r.yaml").write_text("calibrant: 1\n", encoding="utf-8")
    code, out, _ = run(folder, capsys, "explain", "@model.onnx", "--recipe", "@r.yaml", *BOTH)
    assert code == 0
    assert "2 layers: 2 quantized" in out
    assert "sr=16000, training=false" in out
    code, out, _ = run(
        folder, capsys, "explain", "@model.onnx", "--recipe", "@r.yaml", *BOTH, "--json"
    )
    assert json.loads(out)["whole_model"]["fix"] == {"sr": 16000, "training": False}


def test_a_record_says_it_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, capsys, *QUANTIZE, *BOTH)[0] == 0
    words = ("quantize", "@model.onnx", "--record", "@run/record.txt", "--out", "@again")
    assert run(folder, capsys, *words)[0] == 0
    one, two = ((folder / d / "deploy.onnx").read_bytes() for d in ("run", "again"))
    assert one == two
    code, _, err = run(folder, capsys, *words, "--fix", "sr=8000")
    assert code == 5
    assert "--record" in err
