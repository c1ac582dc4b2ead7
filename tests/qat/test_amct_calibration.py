"""AMCT's calibration script on a module of torch, with the import changed."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from torch import nn
from torch.nn import functional as F  # noqa: N812

from calibrant.compat import amct

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter, about parts of its own

SIGNATURES = {
    "create_quant_retrain_config": "config_file model input_data config_defination",
    "create_quant_retrain_model": "config_file model record_file input_data",
    "restore_quant_retrain_model": "config_file model record_file input_data pth_file state_dict_name",
    "save_quant_retrain_model": "config_file model record_file save_path input_data input_names output_names dynamic_axes",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_are_the_vendors(name):
    assert list(inspect.signature(getattr(amct, name)).parameters) == SIGNATURES[name].split()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(F.relu(self.bn1(self.conv1(x))).mean((2, 3)))


@pytest.mark.slow
def test_a_script_calibrates_a_module(tmp_path):
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(4, 1, 8, 8)
    config, record = str(tmp_path / "config.json"), str(tmp_path / "record.txt")
    modified, prefix = str(tmp_path / "modified.onnx"), str(tmp_path / "out" / "net")
    amct.create_quant_config(config, net, x, batch_num=2)
    model = amct.quantize_model(
        config,
        modified,
        record,
        net,
        x,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
    )
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            batch = torch.randn(16, 1, 8, 8)
            torch.testing.assert_close(model(batch), net(batch))
    amct.save_model(modified, record, prefix)
    said = (tmp_path / "record.txt").read_text(encoding="utf-8")
    assert [k for k in ("conv1", "fc") if f'key: "{k}"' in said] == ["conv1", "fc"]
    for name in ("fake_quant", "deploy"):
        session = ort.InferenceSession(
            f"{prefix}_{name}_model.onnx", providers=["CPUExecutionProvider"]
        )
        found = session.run(["scores"], {"image": x.numpy()})[0]
        wanted = net(x).detach().numpy()
        np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


class Evaluator(amct.AutoCalibrationEvaluatorBase):
    """Written for modules: it sends them to a device, and reads tensors."""

    def __init__(self, x: Any, least: float) -> None:
        self.x, self.least = x, least
        self.kinds: list[str] = []
        self.truth: Any = None

    def calibration(self, model):
        model.eval()
        with torch.no_grad():
            for part in self.x.split(4):
                model(part)

    def evaluate(self, model):
        self.kinds.append(type(model).__name__)
        model.eval().to(next(model.parameters()).device)
        with torch.no_grad():
            found = model(self.x)
        self.truth = found if self.truth is None else self.truth
        noise = (found - self.truth).square().sum() / self.truth.square().sum()
        return -10 * torch.log10(noise + 1e-12).item()

    def metric_eval(self, original_metric, new_metric):
        return new_metric > self.least, original_metric - new_metric


@pytest.mark.slow
def test_automatic_calibration_gives_an_evaluator_modules(tmp_path):
    torch.manual_seed(0)
    net, x = Net().train(), torch.randn(16, 1, 8, 8)
    config = tmp_path / "config.json"
    amct.create_quant_config(str(config), net, x[:1], batch_num=2)
    arguments: dict[str, Any] = {
        "config_file": str(config),
        "record_file": str(tmp_path / "record.txt"),
        "save_dir": str(tmp_path / "out" / "net"),
        "input_data": (x[:1],),
        "input_names": ["image"],
        "output_names": ["scores"],
        "dynamic_axes": {"image": {0: "n"}, "scores": {0: "n"}},
    }
    evaluator = Evaluator(x, 20.0)
    found = amct.accuracy_based_auto_calibration(net, evaluator, **arguments)
    assert evaluator.kinds == ["Net", "DeployedModule"]
    assert found.original > found.final > 20
    session = ort.InferenceSession(
        f"{arguments['save_dir']}_fake_quant_model.onnx", providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        wanted = net.eval()(x).numpy()
    answer = session.run(["scores"], {"image": x.numpy()})[0]
    np.testing.assert_allclose(answer, wanted, atol=0.05 * np.abs(wanted).max())


def test_scripts_find_the_classes_where_the_toolkit_has_them():
    from calibrant.compat.amct import accuracy_based_auto_calibration
    from calibrant.compat.amct.accuracy_based_auto_calibration import AutoCalibrationEvaluatorBase
    from calibrant.compat.amct.common.auto_calibration import BinarySearchStrategy

    assert AutoCalibrationEvaluatorBase is amct.AutoCalibrationEvaluatorBase
    assert BinarySearchStrategy is amct.BinarySearchStrategy
    assert callable(accuracy_based_auto_calibration)
    assert amct.accuracy_based_auto_calibration is accuracy_based_auto_calibration
