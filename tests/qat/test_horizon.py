"""A script for Horizon's plugin for PyTorch, with the import changed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn
from torch.nn import functional as F  # noqa: N812

from calibrant.compat.amct import Net as Session
from calibrant.compat.horizon import (
    FakeQuantState,
    ModuleNameQconfigSetter,
    PrepareMethod,
    Qconfig,
    calibration_8bit_weight_16bit_act_qconfig_setter,
    convert,
    default_calibration_qconfig_setter,
    default_qat_fixed_act_qconfig_setter,
    default_qat_qconfig_setter,
    export,
    prepare,
    set_fake_quantize,
)
from calibrant.errors import ConfigRuntimeError, ConfigTypeError, ConfigValueError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return self.fc(F.relu(self.conv2(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(4, 1, 8, 8)
    model = prepare(
        net,
        example_inputs=x,
        qconfig_setter=default_calibration_qconfig_setter,
        method=PrepareMethod.JIT_STRIP,
    )
    return net, x, model


def test_the_vendors_script_calibrates_trains_and_exports(made, tmp_path):
    net, x, model = made
    batches = [3 * torch.randn(16, 1, 8, 8) for _ in range(3)]

    model.eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        for batch in batches:
            torch.testing.assert_close(model(batch), net(batch), rtol=1e-4, atol=1e-5)
    model.eval()
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    first = model.qat.trained.activation(model.qat.solution.plan.activations[0].id)
    seen = torch.cat(batches).abs().max().item()
    assert 0.5 * seen < first.clip_max.item() <= 1.01 * seen  # of all batches, not of the example
    with torch.no_grad():
        error = (model(x) - net(x)).abs().max()
    assert 0 < error < 0.1

    qat_model = prepare(net, x, default_qat_qconfig_setter)
    qat_model.load_state_dict(model.state_dict())
    qat_model.train()
    set_fake_quantize(qat_model, FakeQuantState.QAT)
    optimizer = torch.optim.SGD(qat_model.parameters(), lr=1e-2, weight_decay=2e-4)
    losses = []
    for _ in range(6):
        loss = F.mse_loss(qat_model(batches[0]), 1.2 * net(batches[0]).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    qat_model.eval()
    set_fake_quantize(qat_model, FakeQuantState.VALIDATION)
    with torch.no_grad():
        wanted = qat_model(x).numpy()
    exported = export(qat_model, x, input_names=["image"], output_names=["scores"])
    deployed = convert(exported, "nash-e")
    found = Session(deployed)({"image": x.numpy()})["scores"]
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    exported.save(tmp_path / "out")
    assert (tmp_path / "out" / "deploy.onnx").exists()


def test_setters_say_widths_and_what_stays_in_float(made):
    net, x, _ = made
    named = ModuleNameQconfigSetter({"fc": None, "conv2": Qconfig(8)})
    model = prepare(net, x, (named, calibration_8bit_weight_16bit_act_qconfig_setter))
    plan = model.qat.solution.plan
    assert {w.layer for w in plan.weights} == {"conv1", "conv2"}
    bits = {w.layer: plan.at((w.layer, 0)).spec.bits for w in plan.weights}
    assert bits == {"conv1": 16, "conv2": 8}
    assert all(d.spec.symmetric for d in plan.activations)
    fixed = prepare(net, x, default_qat_fixed_act_qconfig_setter)
    assert not any("ends" in n for n, p in fixed.named_parameters() if p.requires_grad)
    setters = (ModuleNameQconfigSetter({"conv2": Qconfig()}), default_qat_fixed_act_qconfig_setter)
    mixed = prepare(net, x, setters)
    of = {n: mixed.qat.solution.plan.at((n, 0)).id for n in ("conv1", "conv2", "fc")}
    learns = {n: mixed.qat.trained.activation(i).ends.requires_grad for n, i in of.items()}
    assert learns == {"conv1": False, "conv2": True, "fc": False}
    with pytest.raises(ConfigValueError, match="names 'conv3'"):
        prepare(net, x, ModuleNameQconfigSetter({"conv3": None}))
    with pytest.raises(ConfigTypeError, match="A setter is a str"):
        prepare(net, x, ("default",))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x, gain):
        return self.fc(x) * gain


def test_a_module_that_was_prepared_by_name_is_called_as_it_was():
    net, x, gain = Scaled().eval(), torch.randn(8, 3), torch.randn(8, 4)
    model = prepare(net, example_kw_inputs={"gain": gain, "x": x})
    assert model.inputs == ("x", "gain")
    assert (model(x, gain) - net(x, gain)).abs().max() < 0.1
    assert torch.equal(model(gain=gain, x=x), model(x, gain))


def test_states_that_do_not_fit_are_refused(made):
    net, _, model = made
    with pytest.raises(ConfigTypeError, match="none that prepare returned"):
        set_fake_quantize(net, FakeQuantState.QAT)
    with pytest.raises(ConfigTypeError, match="mode is a str"):
        set_fake_quantize(model, "qat")
    with pytest.raises(ConfigRuntimeError, match=r"model.train\(\)"):
        set_fake_quantize(model.eval(), FakeQuantState.QAT)
    with pytest.raises(ConfigRuntimeError, match=r"model.eval\(\)"):
        set_fake_quantize(model.train(), FakeQuantState.CALIBRATION)
    with pytest.raises(ConfigValueError, match="needs example_inputs"):
        prepare(net)
    with pytest.raises(ConfigTypeError, match="what prepare returns"):
        export(net)
