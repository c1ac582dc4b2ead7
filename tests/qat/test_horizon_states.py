"""What a script of Horizon's says of single modules, saves while it calibrates, loads, and calls by name."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import distributed, nn

from calibrant.compat.horizon import (
    FakeQuantState,
    Qconfig,
    default_qat_fixed_act_qconfig_setter,
    export,
    prepare,
    set_fake_quantize,
)
from calibrant.errors import ConfigTypeError, ConfigValueError
from calibrant.graph.modules import _as_declared
from calibrant.qat.arguments import feeds_of
from calibrant.qat.horizon import HorizonModel, _fixed, _recipe
from calibrant.qat.own_units import in_own_units
from calibrant.qat.trainable import Trainable
from calibrant.qat.trainable import prepare as prepare_model

pytestmark = pytest.mark.filterwarnings("ignore")


NET = """<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3] x, float[N,4] gain) => (float[N,4] y) {
    [first] a = Gemm (x, w, c)
    [relu] r = Relu (a)
    [second] b = Gemm (r, v)
    [times] y = Mul (b, gain)
}"""


def inputs() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"gain": torch.randn(8, 4), "x": torch.randn(8, 3)}


@pytest.fixture(scope="module")
def prepared() -> Trainable:
    rng = np.random.default_rng(0)
    net = parser.parse_model(NET)
    for name, shape in (("w", (3, 4)), ("c", (4,)), ("v", (4, 4))):
        held = rng.normal(size=shape).astype(np.float32)
        net.graph.initializer.append(onnx.numpy_helper.from_array(held, name))
    recipe = _recipe(ir.from_proto(net), Qconfig(), [])
    made = prepare_model(net, {n: x.numpy() for n, x in inputs().items()}, recipe)
    in_own_units(made)
    return made


@pytest.fixture
def qat(prepared: Trainable) -> Trainable:
    return replace(prepared, trained=copy.deepcopy(prepared.trained))


def ranges(model: HorizonModel) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in model.graph.named_parameters() if "ends" in n}


def calibrating(qat: Trainable, scale: float = 5.0) -> HorizonModel:
    """Return a model of a network that has seen a batch, and is still in calibration."""
    model = HorizonModel(qat).eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    model(**{n: scale * x for n, x in inputs().items()})
    return model


def reads(qat: Trainable, layer: str) -> str:
    """Return the path of the quantizer that a layer reads."""
    read = qat.solution.plan.at((layer, 0))
    assert read is not None
    return qat.trained.activations[read.id]


@pytest.mark.parametrize(
    ("common", "named", "first", "second"),
    [
        (Qconfig(), {"second": Qconfig(fixed=True)}, False, True),
        (default_qat_fixed_act_qconfig_setter, {"first": Qconfig()}, False, True),
        (default_qat_fixed_act_qconfig_setter, {}, True, True),
        (Qconfig(), {}, False, False),
    ],
)
def test_a_module_says_for_itself_whether_its_range_learns(qat, common, named, first, second):
    fixed = _fixed(qat, common, list(named.items()))
    assert (reads(qat, "first") in fixed, reads(qat, "second") in fixed) == (first, second)


def test_one_process_alone_saves_while_it_calibrates(qat, monkeypatch):
    """What all processes have to call together is called at the end of calibration, and not by a save."""
    waits: list[Any] = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(distributed, "all_reduce", waits.append)
    model = calibrating(qat)
    before = ranges(model)
    state = model.state_dict()
    assert waits == []
    assert any(not torch.equal(state[f"graph.{n}"], x) for n, x in before.items())
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    assert len(waits) == len(before)


def test_a_state_that_is_loaded_is_not_written_over_by_what_was_seen(qat):
    model = calibrating(qat, 1.0)
    loaded = {n: x.clone() for n, x in model.state_dict().items()}
    for load in (model.load_state_dict, nn.ModuleList([model])[0].load_state_dict):
        model(**{n: 9 * x for n, x in inputs().items()})
        load(loaded)
        wanted = ranges(model)
        model.state_dict()
        set_fake_quantize(model, FakeQuantState.VALIDATION)
        assert all(torch.equal(x, wanted[n]) for n, x in ranges(model).items())
        set_fake_quantize(model, FakeQuantState.CALIBRATION)
    around = nn.Sequential(model)
    model(**{n: 9 * x for n, x in inputs().items()})
    around.load_state_dict({f"0.{n}": x for n, x in loaded.items()})
    export(model)
    assert all(torch.equal(x, wanted[n]) for n, x in ranges(model).items())


def test_a_network_is_called_by_place_and_by_name(qat):
    model, given = HorizonModel(qat).eval(), inputs()
    x, gain = given["x"], given["gain"]
    wanted = model(x, gain)
    assert torch.equal(model(gain=gain, x=x), wanted)
    assert torch.equal(model(x, gain=gain), wanted)
    for wrong in ({"x": x, "gain": gain}, {"gains": gain}, {"gain": gain, "more": x}):
        with pytest.raises(ConfigTypeError, match="its inputs are x, gain, each given once"):
            model(x, **wrong)


def test_an_example_is_taken_by_place_or_by_name(qat):
    given = inputs()
    for example in (given, (given["x"], given["gain"])):
        found = feeds_of(qat.solution.original, example)
        assert {n: x.shape for n, x in found.items()} == {"x": (8, 3), "gain": (8, 4)}
    for wrong in (given["x"], {"x": given["x"]}, {**given, "more": given["x"]}):
        with pytest.raises(ConfigValueError, match="which are x, gain"):
            feeds_of(qat.solution.original, wrong)


def test_arguments_by_name_are_in_the_order_of_the_module():
    class Net(nn.Module):
        def forward(self, x, gain, **more):
            return x * gain

    assert list(_as_declared(Net(), {"other": 1, "gain": 2, "x": 3})) == ["x", "gain", "other"]


def test_two_examples_and_a_wrong_number_of_names_are_refused(qat):
    given = inputs()
    with pytest.raises(ConfigValueError, match="one of them"):
        prepare(nn.Linear(3, 4), given["x"], example_kw_inputs={"input": given["x"]})
    with pytest.raises(ConfigValueError, match="input_names has 1 names; the model has 2 inputs"):
        export(HorizonModel(qat), input_names=["image"])
