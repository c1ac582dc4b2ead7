"""What a person sees of a result: a few lines, or a small table in a notebook."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import calibrant
from calibrant.errors import ModelError
from calibrant.graph import proto
from calibrant.report import as_html, as_text
from calibrant.results import QuantizedModel
from tests.models import NETS
from tests.road import outputs, quantized


def test_repr_is_a_few_lines_that_say_how_good_the_model_is() -> None:
    text = repr(quantized("residual", "generic"))
    assert 4 <= text.count("\n") + 1 <= 6
    assert len(text) < 500
    assert re.search(r"outputs +y \d+\.\d dB", text)
    assert "5 quantized, 0 left in float" in text


@pytest.mark.parametrize("part", ["plan", "params", "statistics", "record"])
def test_the_parts_of_a_result_say_in_one_line_what_they_are(part: str) -> None:
    text = repr(getattr(quantized("residual", "generic"), part))
    assert re.fullmatch(r"[A-Z]\w+\(.*\d.*\)", text)
    assert len(text) < 120


def test_the_record_of_a_result_builds_its_model_again() -> None:
    result = quantized("residual", "generic")
    again = calibrant.quantize_from_record(NETS["residual"]()[0], result.record)
    assert again.to_bytes() == result.to_bytes()


def test_repr_names_warnings_and_stays_short_with_many_outputs() -> None:
    summary = dict(quantized("residual", "generic").summary)
    outputs_ = {f"out{i}": summary["quality"]["outputs"]["y"] for i in range(40)}
    summary["quality"] = {**summary["quality"], "outputs": outputs_}
    summary["warnings"] = ["Output 'y' has collapsed.", "Another."]
    text = as_text(summary)
    assert text.count("\n") + 1 == 6
    assert "and 37 more" in text
    assert "2, the first: Output 'y' has collapsed." in text


def test_a_result_that_was_not_measured_says_so() -> None:
    summary = dict(quantized("residual", "generic").summary)
    summary["quality"] = {**summary["quality"], "outputs": {}}
    assert "outputs  not measured" in as_text(summary)
    assert "<th>" not in as_html(summary)
    assert as_text({}) in as_html({})


def test_html_holds_the_figures_and_escapes_what_a_model_is_called() -> None:
    result = quantized("residual", "generic")
    figure = f"{result.summary['quality']['outputs']['y']['sqnr_db']:.1f}"
    assert f"<td>{figure}</td>" in result._repr_html_()
    bad = {**result.summary, "model": "<script>alert(1)</script>", "warnings": ["a < b"]}
    page = as_html(bad)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &lt; b" in page
    for tag in ("div", "table", "tr", "td", "th", "b"):
        assert page.count(f"<{tag}>") == page.count(f"</{tag}>")


def test_other_packages_take_a_result_in_memory(tmp_path) -> None:
    result = quantized("residual", "generic")
    feed = NETS["residual"]()[1]()
    result.save(tmp_path / "run")
    onnx.checker.check_model(result.to_proto(), full_check=True)
    onnx.save(result.to_proto(), tmp_path / "model.onnx")
    sources = (
        str(tmp_path / "run" / "deploy.onnx"),
        result.to_bytes(),
        str(tmp_path / "model.onnx"),
    )
    sessions = [ort.InferenceSession(s, providers=["CPUExecutionProvider"]) for s in sources]
    expected, *others = (s.run(None, feed)[0] for s in sessions)
    for found in others:
        np.testing.assert_array_equal(found, expected)


def test_a_model_over_two_gigabytes_is_refused_with_the_way_out(monkeypatch) -> None:
    monkeypatch.setattr(proto, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(ModelError, match="save it into a folder"):
        quantized("residual", "generic").to_bytes()


def test_a_result_stands_for_its_model() -> None:
    result = quantized("residual", "generic")
    feed = NETS["residual"]()[1]()
    data = feed | {"y": outputs(result.deploy, feed)[0]}
    assert calibrant.evaluate(result, data, "mse").value == pytest.approx(0, abs=1e-9)
    with pytest.raises(ModelError, match="already quantized"):
        calibrant.quantize(result, [feed])


def test_a_held_model_is_the_deployed_one() -> None:
    result = quantized("residual", "generic")
    assert proto.held_model(result) is result.deploy
    assert proto.held_model("a.onnx") == "a.onnx"
    other = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    assert proto.held_model(other) is other
    assert isinstance(result, QuantizedModel)
