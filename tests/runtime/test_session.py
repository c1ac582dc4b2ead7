"""Sessions: options, models in every form, and errors in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from calibrant.errors import ConfigValueError, ModelError
from calibrant.graph.load import load, prepare
from calibrant.runtime import session as sessions
from calibrant.runtime.arena import shrink_arena
from calibrant.runtime.heap import give_back
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.tap import expose
from tests.models import NETS, build, convolution, normal, with_external_data
from tests.road import outputs


def test_a_model_opens_in_every_form(tmp_path: Path) -> None:
    model, _ = convolution.residual()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for source in (path, str(path), model.SerializeToString(), model, ir.from_proto(model)):
        session = open_session(source, runtime=Runtime(threads=1))
        assert [v.name for v in session.get_inputs()] == ["x"]


def test_weights_in_files_are_found_from_a_model_in_memory(tmp_path: Path) -> None:
    model, feeds = convolution.residual()
    loaded = load(with_external_data(model, tmp_path))
    reference = outputs(model, feeds())[0]
    np.testing.assert_array_equal(outputs(loaded, feeds())[0], reference)
    assert isinstance(loaded.graph.initializers["w1"].const_value, ir.ExternalTensor)


@pytest.mark.parametrize("external", [True, False])
def test_a_model_beyond_the_limit_of_protobuf_goes_through_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    model, feeds = convolution.residual()
    source = load(with_external_data(model, tmp_path) if external else model)
    monkeypatch.setattr(sessions, "_PROTOBUF_LIMIT", 1000)
    written: list[Path] = []
    save = ir.save

    def watched(m: ir.Model, path: Path, external_data: str) -> None:
        save(m, path, external_data=external_data)
        written.extend(Path(path).parent.iterdir())

    monkeypatch.setattr(ir, "save", watched)
    reference = outputs(model, feeds())[0]
    for m in (source, prepare(source)):
        np.testing.assert_array_equal(outputs(m, feeds())[0], reference)
    assert {p.name for p in written} == {"model.onnx", "weights.bin"}
    assert not any(p.exists() for p in written)


def test_an_unknown_provider_is_an_error_with_a_near_name() -> None:
    with pytest.raises(ConfigValueError, match=r"'cdua'.*Did you mean 'cuda'"):
        open_session(convolution.residual()[0], runtime=Runtime("cdua"))


def test_a_provider_that_is_not_installed_says_which_are() -> None:
    with pytest.raises(ConfigValueError, match=r"'coreml' is not in .*CPUExecutionProvider"):
        open_session(convolution.residual()[0], runtime=Runtime("coreml"))


def test_a_model_that_the_runtime_does_not_take_is_a_model_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model, _ = convolution.residual()
    model.graph.node[0].domain = "nobody"
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot load the model: .*nobody"):
        open_session(model)
    assert capfd.readouterr() == ("", "")


def test_a_run_that_fails_names_the_inputs_and_says_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model, feeds = build(
        "net (float[N,24] x) => (float[M,8] y) { y = Reshape (x, shape) }",
        {"shape": np.array([3, 8])},
        normal(24),
    )
    session = open_session(model)
    assert infer(session, ["y"], feeds(batch=1))[0].shape == (3, 8)
    with pytest.raises(ModelError, match=r"cannot run the model on inputs 'x' \(2, 24\)"):
        infer(session, ["y"], feeds(batch=2))
    assert capfd.readouterr() == ("", "")


def test_without_optimization_the_graph_runs_as_it_is_written() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    plain = open_session(model, optimize=False, runtime=Runtime(threads=1))
    assert infer(plain, ["y"], feeds())[0].shape == (4, 10)


def test_freed_memory_can_be_given_back_at_any_time() -> None:
    give_back()
    block = np.ones(1_000_000)
    del block
    give_back()


def test_sessions_share_one_arena_and_those_for_timings_do_not() -> None:
    model, feeds = convolution.residual()
    shared = [open_session(model) for _ in range(2)]
    own = open_session(model, spinning=True)
    key = "session.use_env_allocators"
    assert [s.get_session_options().get_session_config_entry(key) for s in shared] == ["1", "1"]
    with pytest.raises(RuntimeError):
        own.get_session_options().get_session_config_entry(key)
    names = [o.name for o in own.get_outputs()]
    wanted = infer(own, names, feeds())
    for session in shared:  # in turn, and while what the arena has to spare is given back
        for options in (None, shrink_arena(), None):
            for a, b in zip(infer(session, names, feeds(), options), wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_lies_between_is_not_described_to_a_runtime() -> None:
    model, feeds = convolution.residual()
    prepared = prepare(load(model))
    tensors = [v.name or "" for n in prepared.graph for v in n.outputs][:2]
    exposed = expose(prepared, tensors)
    between = [v for n in exposed.graph for v in n.outputs if not v.is_graph_output()]
    assert between
    assert all(v.shape is None and v.type is None for v in between)
    assert all(v.shape is not None for n in prepared.graph for v in n.outputs)
    for name, a in zip(tensors, infer(open_session(exposed), tensors, feeds()), strict=True):
        (b,) = infer(open_session(expose(prepared, [name])), [name], feeds())
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_pool_of_4_bit_values_runs_as_it_is_written() -> None:
    """ONNX Runtime's optimizer puts such a pool between Q and DQ, where it has no operator for it."""
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    net (float[N,2,4,4] x) => (float[N,2,2,2] y) <float s = {0.5}, int4 z = {0}> {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
        r = QuantizeLinear (p, s, z)
        y = DequantizeLinear (r, s, z)
    }"""
    model = parser.parse_model(text)
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    found, wanted = (
        infer(open_session(model, optimize=optimize), ["y"], {"x": x})[0]
        for optimize in (True, False)
    )
    np.testing.assert_array_equal(found, wanted)
