"""AMCT's calibration script on an ONNX model, with the import changed."""

from __future__ import annotations

import inspect
import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import calibrant
from calibrant.compat import amct
from calibrant.errors import ConfigRuntimeError, ConfigValueError
from calibrant.record.read import read_record
from tests.models import NETS

SIGNATURES = {
    "create_quant_config": "config_file model input_data skip_layers batch_num activation_offset config_defination",
    "quantize_preprocess": "config_file record_file model input_data",
    "quantize_model": "config_file modified_onnx_file record_file model input_data input_names output_names dynamic_axes",
    "save_model": "modified_onnx_file record_file save_path",
    "accuracy_based_auto_calibration": "model model_evaluator config_file record_file save_dir input_data input_names "
    "output_names dynamic_axes strategy sensitivity",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_are_the_vendors(name):
    assert list(inspect.signature(getattr(amct, name)).parameters) == SIGNATURES[name].split()


@pytest.fixture
def script(tmp_path):
    """Return a network, its batches, and the files of a script."""
    model, feeds = NETS["conv_bn_relu"]()
    onnx.save(model, tmp_path / "net.onnx")
    batches = [feeds(batch=8, seed=i) for i in range(3)]
    return tmp_path, tmp_path / "net.onnx", batches


def test_a_script_calibrates_and_saves_what_quantize_makes(script):
    folder, model, batches = script
    config, record = folder / "config.json", folder / "out" / "record.txt"
    modified, prefix = folder / "out" / "modified.onnx", folder / "out" / "net"
    amct.create_quant_config(str(config), str(model), None, batch_num=2)
    net = amct.quantize_model(str(config), str(modified), str(record), str(model))
    with pytest.raises(ConfigRuntimeError, match=r"layers? to be quantized"):
        amct.save_model(str(modified), str(record), str(prefix))
    wanted = calibrant.quantize(model, batches[:2], config, latency=False)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for feed in batches:
        np.testing.assert_allclose(net(*feed.values()), session.run(None, feed)[0], rtol=1e-5)
    assert record.read_text(encoding="utf-8") == wanted.record.text()
    amct.save_model(str(modified), str(record), str(prefix))
    for name, made in (("fake_quant", wanted.fake_quant), ("deploy", wanted.deploy)):
        written = amct.Net(ir.load(folder / "out" / f"net_{name}_model.onnx"))
        found = written(*batches[0].values())
        np.testing.assert_array_equal(found, amct.Net(made)(*batches[0].values()), err_msg=name)
    amct.save_model(str(modified), str(record), f"{folder}/bare/")
    assert (folder / "bare" / "deploy_model.onnx").exists()


def test_balancing_factors_come_from_the_batch_of_the_first_pass(script):
    folder, model, batches = script
    config, record = folder / "config.json", folder / "record.txt"
    amct.create_quant_config(config, model, None)
    with pytest.raises(ConfigValueError, match="no layer with dmq_balancer_param"):
        amct.quantize_preprocess(config, record, model, None)
    content = json.loads(config.read_text(encoding="utf-8"))
    layers = [k for k, v in content.items() if isinstance(v, dict) and "wts_algo" in str(v)]
    layer = layers[-1]
    content[layer]["dmq_balancer_param"] = 0.5
    config.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigRuntimeError, match="call quantize_preprocess"):
        amct.quantize_model(config, folder / "m.onnx", record, model)
    first = amct.quantize_preprocess(config, record, model, None)
    uneven = {n: x * 3 for n, x in batches[2].items()}
    first(*uneven.values())
    factors = read_record(record).entries[layer].value.tensor_balance_factor
    wanted = calibrant.quantize(model, [uneven], config, latency=False).record.text()
    np.testing.assert_allclose(
        factors, read_record(wanted).entries[layer].value.tensor_balance_factor, rtol=1e-6
    )
    net = amct.quantize_model(config, folder / "m.onnx", record, model)
    net(*batches[0].values())
    after = read_record(record).entries[layer].value
    np.testing.assert_allclose(after.tensor_balance_factor, factors, rtol=1e-6)
    assert after.scale_d
    amct.save_model(folder / "m.onnx", record, folder / "net")


def test_layers_can_be_skipped_and_a_simplified_configuration_be_given(script):
    folder, model, _ = script
    config = folder / "config.json"
    amct.create_quant_config(config, model, None, activation_offset=False)
    content = json.loads(config.read_text(encoding="utf-8"))
    assert content["activation_offset"] is False
    layers = [k for k, v in content.items() if isinstance(v, dict)]
    amct.create_quant_config(config, model, None, skip_layers=[layers[0]])
    skipped = json.loads(config.read_text(encoding="utf-8"))
    assert [skipped[k]["quant_enable"] for k in layers] == [False, *[True] * (len(layers) - 1)]
    (folder / "quant.cfg").write_text(f'batch_num: 3\nskip_layers: "{layers[1]}"\n')
    amct.create_quant_config(config, model, None, config_defination=folder / "quant.cfg")
    said = json.loads(config.read_text(encoding="utf-8"))
    assert said["batch_num"] == 3
    assert said[layers[1]]["quant_enable"] is False


def test_weights_in_a_file_of_their_own_are_found_from_another_folder(script):
    folder, model, batches = script
    apart = folder / "in" / "net.onnx"
    apart.parent.mkdir()
    ir.save(ir.load(model), apart, external_data="net.data")
    modified, record = folder / "out" / "modified.onnx", folder / "out" / "record.txt"
    amct.create_quant_config(folder / "config.json", apart, None)
    net = amct.quantize_model(folder / "config.json", modified, record, apart)
    net(*batches[0].values())
    (apart.parent / "net.data").unlink()
    amct.save_model(modified, record, f"{folder}/out/net")
    assert (folder / "out" / "net_deploy_model.onnx").exists()
