from __future__ import annotations

import json

import pytest

from calibrant.dialects import convert, load_recipe
from calibrant.errors import ConfigValueError, UnsupportedError
from calibrant.plan import explain
from calibrant.recipe.unsupported import unsupported
from tests.dialects._help import GOLDEN, prepared, settings
from tests.models import NETS

CFG = 'batch_num: 3\ncommon_config { hfmg_quantize { } dmq_balancer { } }\nskip_layers: "conv2"\n'


def test_a_simplified_configuration_becomes_that_of_a_model() -> None:
    text = convert(CFG, "amct", model=NETS["residual"]()[0])
    content = json.loads(text)
    assert content["batch_num"] == 3
    assert content["conv1"]["dmq_balancer_param"] == 0.5
    assert content["conv2"]["quant_enable"] is False
    assert {n for n in content if n.startswith("conv")} == {f"conv{i}" for i in range(5)}
    before, after = settings(load_recipe(CFG))[0], settings(load_recipe(text))[0]
    for name, s in before.items():
        if s.compute == "int":
            assert after[name] == s
        else:
            assert after[name].compute == "float32"


@pytest.mark.parametrize(
    "source", ["amct_ifmr.json", "amct_uniform_lines.cfg", "horizon_full.json"]
)
def test_every_dialect_becomes_a_native_recipe(source: str) -> None:
    assert convert(GOLDEN / source, "native").startswith("calibrant: 1\n")


def test_a_native_recipe_for_a_model_is_written_as_it_is() -> None:
    text = "calibrant: 1\nrules:\n- {where: {op: Conv}, precision: int16}\n"
    for_model = convert(text, "native", model=NETS["residual"]()[0])
    assert for_model == convert(text, "native")
    assert "op: Conv" in for_model


def test_dialects_that_are_only_read_or_unknown() -> None:
    with pytest.raises(UnsupportedError, match=r"'amct-cfg' is read, not written\. Written: amct"):
        convert(CFG, "amct-cfg")
    with pytest.raises(ConfigValueError, match=r"Unknown dialect 'amtc'.*Did you mean 'amct'"):
        convert(CFG, "amtc")


def test_an_explanation_names_the_rule_of_every_field_and_what_is_not_done() -> None:
    text = (
        '{"model_config": {"activation": {"calibration_type": ["max", "kl"]}},\n'
        '"op_config": {"Gemm": {"qtype": "int16"}},\n'
        '"node_config": {"conv1": {"qtype": "float32"}}}'
    )
    recipe = load_recipe(text)
    found = explain(recipe, prepared("residual"))
    layers = {d.node: d for d in found.layers}
    assert layers["conv1"].origin["compute"].endswith(":3 node_config.conv1.qtype")
    assert layers["conv1"].quantized is False
    assert layers["conv2"].origin["activation"].endswith("model_config.activation")
    assert found.unsupported == tuple(unsupported(recipe))
    assert ["no operator of type 'Gemm'" in n.message for n in found.notes] == [True]
