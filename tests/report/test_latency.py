"""Where the quantized model is slower on the runtime here, one line says why and names another target."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest

from calibrant.cli._summary import print_summary
from calibrant.graph import targets
from calibrant.report.latency import slower
from calibrant.runtime.measure import Latency, measure_latency
from tests.models import NETS
from tests.road import TARGETS, batches, quantize


def test_a_model_for_another_device_names_the_target_for_this_one() -> None:
    text = slower(1.0, 2.0, targets.get("generic"))
    assert "takes 2 ms and the float model 1 ms" in text
    assert "target 'generic' places quantizers for other devices" in text
    assert "take target 'onnxruntime'" in text


def test_a_model_for_this_machine_is_not_sent_to_another_target() -> None:
    of_the_user = replace(targets.get("onnxruntime"), name="mine")
    for target in (targets.get("onnxruntime"), of_the_user):
        text = slower(1.0, 2.0, target)
        assert "float model serves better" in text
        assert "take target" not in text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("quantized_ms", "said"), [(2.0, True), (1.0, False), (0.5, False)])
def test_every_target_is_timed_and_the_slower_model_is_said(
    target: str,
    quantized_ms: float,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def timed(*_: object, **__: object) -> Latency:
        return Latency(1.0, quantized_ms, 1, 5)

    monkeypatch.setattr("calibrant.pipeline.measure_latency", timed)
    model, feeds = NETS["residual"]()
    summary = quantize(model, batches(feeds), target=target, latency=True).summary
    assert summary["latency"]["float_ms"] == 1.0
    assert bool(summary["latency"]["slower"]) == said
    assert any("float model serves better" in w for w in summary["warnings"]) == (
        said and target == "onnxruntime"
    )
    print_summary(summary, [], verbose=False)
    shown = capsys.readouterr().out
    assert shown.count("on this machine the quantized model takes") == int(said)


def test_latency_can_be_left_out() -> None:
    model, feeds = NETS["residual"]()
    summary = quantize(model, batches(feeds), latency=False).summary
    assert summary["latency"] is None


def test_small_models_are_not_timed_longer_than_needed() -> None:
    proto, feeds = NETS["residual"]()
    model = ir.from_proto(proto)
    assert measure_latency(model, model, feeds(batch=1), most_runs=7).runs == 7
    assert measure_latency(model, model, feeds(batch=1), seconds=0).runs == 5


def test_timing_ends_early_once_medians_are_near_enough() -> None:
    proto, feeds = NETS["residual"]()
    model = ir.from_proto(proto)
    assert measure_latency(model, model, feeds(batch=1), steady=100.0).runs == 5
    assert measure_latency(model, model, feeds(batch=1), most_runs=9, steady=1e-9).runs == 9
