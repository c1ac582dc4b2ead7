"""The demonstration shows what it promises, in both forms, and its data is what its README says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant import demo
from calibrant.demo import digits
from calibrant.demo.experiment import Outcome, compare_settings
from calibrant.demo.page import sentences
from calibrant.errors import OutputError


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return compare_settings(tmp_path_factory.mktemp("demo") / "results")


def test_the_naive_setting_fails_and_the_default_holds(outcome: Outcome) -> None:
    assert outcome.original.top1 == pytest.approx(0.995)
    assert outcome.naive.top1 < outcome.original.top1 - 0.3
    assert outcome.default.top1 >= outcome.original.top1 - 0.005
    assert outcome.default.sqnr_db is not None
    assert outcome.default.sqnr_db > 20


def test_the_numbers_of_wrong_digits_belong_to_the_accuracies(outcome: Outcome) -> None:
    for model in outcome.models:
        assert model.top1 == pytest.approx(1 - model.wrong / 600)


def test_the_quantized_models_on_disk_are_qdq_and_smaller(outcome: Outcome) -> None:
    for model in (outcome.naive, outcome.default):
        kinds = {n.op_type for n in onnx.load(model.file).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
        assert model.size_bytes < 0.6 * outcome.original.size_bytes


def test_the_page_names_the_numbers_and_the_next_command(outcome: Outcome) -> None:
    text = "\n".join(sentences(outcome))
    lost = round(100 * (outcome.original.top1 - outcome.naive.top1))
    assert f"loses {lost} points" in text
    assert f"{outcome.kernel_spread:.0f} times" in text
    assert str(outcome.default.file) in text
    assert "calibrant quantize model.onnx --data samples.npz" in text


def test_the_page_claims_only_what_was_done(outcome: Outcome) -> None:
    assert "rescales the channels" in "\n".join(sentences(outcome))
    summary = outcome.default.summary
    undone = summary | {"passes": summary["passes"] | {"equalized": []}}
    changed = replace(outcome, default=replace(outcome.default, summary=undone))
    assert "rescales the channels" not in "\n".join(sentences(changed))


def test_run_prints_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(tmp_path / "out") == 0
    page = capsys.readouterr().out
    assert "Reading 600 handwritten digits" in page
    assert "99.5%" in page
    found = json.loads((tmp_path / "out" / "demo.json").read_text(encoding="utf-8"))
    assert [m["name"] for m in found["models"]] == ["float", "naive", "default"]
    for name in ("naive", "default"):
        assert (tmp_path / "out" / name / "summary.json").is_file()


def test_run_prints_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(tmp_path / "out", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"][2]["top1"] > found["models"][1]["top1"]
    assert found == json.loads((tmp_path / "out" / "demo.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_without_a_folder_the_results_go_into_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.run() == 0
    assert "calibrant-demo/default/deploy.onnx" in capsys.readouterr().out
    assert (tmp_path / "calibrant-demo" / "default" / "deploy.onnx").is_file()


def test_a_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="Cannot write into the folder"):
        demo.run(tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_the_sets_are_disjoint_and_in_the_range_the_network_was_trained_on() -> None:
    calibration, test = digits.calibration(), digits.evaluation()
    assert calibration.image.shape == (96, 1, 16, 16)
    assert test.image.shape == (600, 1, 16, 16)
    seen = {x.tobytes() for x in calibration.image}
    assert not any(x.tobytes() in seen for x in test.image)
    for part in (calibration, test):
        assert part.image.dtype == np.float32
        assert part.image.min() == 0
        assert part.image.max() == 1
        assert set(part.labels.tolist()) == set(range(10))


def test_the_shipped_network_is_small_and_its_normalizations_are_unfused() -> None:
    assert digits.MODEL.stat().st_size < 300_000
    model = onnx.load(digits.MODEL)
    kinds = [n.op_type for n in model.graph.node]
    assert kinds.count("BatchNormalization") == kinds.count("Conv") == 9
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
