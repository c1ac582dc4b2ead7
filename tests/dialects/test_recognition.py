from __future__ import annotations

import pytest

from calibrant.dialects import dialects, load_recipe
from calibrant.errors import ConfigError, ConfigValueError
from tests.dialects._help import GOLDEN

KNOWN = {
    "calibrant: 1\n": "native",
    '{"calibrant": 1, "target": "generic"}': "native",
    '{"version": 1, "conv1": {"quant_enable": true}}': "amct",
    '{"conv1": {"activation_quant_params": {}}}': "amct",
    '{"version": 1, "conv1": {"retrain_enable": true}}': "amct-retrain",
    "batch_num: 2\n": "amct-cfg",
    "# c\nskip_layers: 'a'\n": "amct-cfg",
    "override_layer_configs { layer_name: 'a' calibration_config { } }\n": "amct-cfg",
    "override_layer_configs { layer_name: 'a' retrain_data_quant_config { } }\n": "amct-retrain-cfg",
    "batch_num: 1\nretrain_data_quant_config: { }\n": "amct-retrain-cfg",
    "quant_skip_layers: 'a'\n": "amct-retrain-cfg",
    "device: USE_CPU\nquantize_algo: HALF_OFFSET\n": "ascend",
    "start_ratio: 0.7\nend_ratio: 1.3\nstep_ratio: 0.01\n": "ascend",
    '{"model_config": {}}': "horizon",
    '{"activation": {"calibration_type": "kl"}}': "horizon",
    '{"node_config": {"a": {"qtype": "int8"}}}': "horizon",
    "calibration_parameters:\n  calibration_type: kl\n": "horizon",
    '{"calibration_parameters": {"calibration_type": "kl"}}': "horizon",
    # faulty ones: recognised all the same, so that the fault is told
    '{"conv1": {"quant_enable": true,}}': "amct",
    '{"conv1": {"retrain_enable": tru}}': "amct-retrain",
    '{"model_config": {"all_node_type": "int8"}': "horizon",
    "common_config {\n": "amct-cfg",
    "calibration_parameters:\n  a: [\n": "horizon",
}


@pytest.mark.parametrize(("text", "name"), KNOWN.items())
def test_a_text_is_known_by_what_it_says_to_one_dialect_alone(text: str, name: str) -> None:
    assert [d.name for d in dialects().values() if d.recognises(text, None)] == [name]


@pytest.mark.parametrize("file", sorted(p.name for p in GOLDEN.iterdir() if p.suffix != ".md"))
def test_each_golden_file_is_of_one_dialect_and_loads(file: str) -> None:
    text = (GOLDEN / file).read_text()
    assert len([d for d in dialects().values() if d.recognises(text, None)]) == 1
    assert load_recipe(GOLDEN / file).rules


@pytest.mark.parametrize(
    "text", ["{}", '{"a": 1}', "hello: world\n", "# nothing\n", "a { b: 1 }\n"]
)
def test_other_texts_are_of_no_dialect_and_all_are_listed(text: str) -> None:
    with pytest.raises(ConfigValueError, match="in no dialect") as e:
        load_recipe(text)
    assert all(name in str(e.value) for name in dialects())


@pytest.mark.parametrize("text", [t for t in KNOWN if "calibrant" not in t])
def test_every_dialect_reads_or_refuses_in_one_sentence(text: str) -> None:
    try:
        found = load_recipe(text).target
    except ConfigError as e:
        found = str(e)
    assert found


def test_every_dialect_has_a_name_and_a_title() -> None:
    assert set(dialects()) == {
        "amct",
        "amct-cfg",
        "amct-retrain",
        "amct-retrain-cfg",
        "ascend",
        "horizon",
        "native",
    }
    assert all(d.title for d in dialects().values())
    written = {n for n, d in dialects().items() if d.dump is not None}
    assert written == {"amct", "amct-retrain", "amct-retrain-cfg", "horizon", "native"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"a": {"quant_enable": true, "retrain_enable": true}}', ("amct", "amct-retrain")),
        ('{"a": {"quant_enable": true}, "b": {"retrain_enable": true}}', ("amct", "amct-retrain")),
        ('{"version": 1, "model_config": {"all_node_type": "int8"}}', ("amct", "horizon")),
        ("device: USE_CPU\ncommon_config { }\n", ("amct-cfg", "ascend")),
        ("common_config { }\nretrain_data_quant_config { }\n", ("amct-cfg", "amct-retrain-cfg")),
    ],
)
def test_a_text_with_keys_of_two_dialects_is_not_guessed(
    text: str, names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigValueError, match="keys of several dialects") as e:
        load_recipe(text)
    assert all(f"{name} (" in str(e.value) for name in names)


@pytest.mark.parametrize("layer", ["weight", "activation", "search"])
def test_a_layer_may_have_the_name_of_a_section_of_another_dialect(layer: str) -> None:
    recipe = load_recipe({layer: {"quant_enable": True}})
    assert recipe.target == "layers-only"


def test_a_dialect_that_is_named_is_not_guessed() -> None:
    text = "batch_num: 2\nskip_layers: 'a'\n"
    assert not load_recipe(text).training
    assert load_recipe(text, dialect="amct-retrain-cfg").training
    with pytest.raises(ConfigValueError, match=r"Unknown dialect 'amtc'\. .*Did you mean 'amct'"):
        load_recipe(text, dialect="amtc")
