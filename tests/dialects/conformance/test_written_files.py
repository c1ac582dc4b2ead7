"""Files that are written: config.json byte by byte, and what a dialect has no words for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from calibrant import load_recipe
from calibrant.cli import main
from calibrant.dialects import convert, dump_recipe
from calibrant.dialects.amct.write import create_config
from calibrant.errors import ConfigValueError, UnsupportedError
from tests.dialects.conformance._zoo import LAYERS, zoo

#: One layer as the vendor writes it, by hand, with its keys in its order.
LAYER = """    "{name}":{{
        "quant_enable":{enabled},
        "activation_quant_params":{{
            "num_bits":8,
            "max_percentile":0.999999,
            "min_percentile":0.999999,
            "search_range":[
                0.7,
                1.3
            ],
            "search_step":0.01,
            "act_algo":"ifmr",
            "asymmetric":{asymmetric}
        }},
        "weight_quant_params":{{
            "num_bits":8,
            "channel_wise":{channel_wise},
            "wts_algo":"arq_quantize"
        }}
    }}"""

HEAD = """{{
    "version":1,
    "batch_num":{batch_num},
    "activation_offset":{offset},
    "do_fusion":true,
    "skip_fusion_layers":[],
"""


def by_hand(*, batch_num: int = 1, offset: bool = True, skip: tuple[str, ...] = ()) -> str:
    layers = []
    for name in sorted(LAYERS):
        kind = LAYERS[name]
        layers.append(
            LAYER.format(
                name=name,
                enabled="false" if name in skip else "true",
                asymmetric="true" if offset and kind != "Conv3d" else "false",
                channel_wise="false" if kind in ("Linear", "AvgPool2d") else "true",
            )
        )
    head = HEAD.format(batch_num=batch_num, offset=str(offset).lower())
    return head + ",\n".join(layers) + "\n}\n"


def test_the_default_configuration_byte_by_byte() -> None:
    assert create_config(zoo()) == by_hand()


def test_the_options_of_the_vendors_call_byte_by_byte() -> None:
    text = create_config(zoo(), skip_layers=["conv", "fc"], batch_num=2, activation_offset=False)
    assert text == by_hand(batch_num=2, offset=False, skip=("conv", "fc"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(zoo(), tmp_path / "zoo.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> int:
    return main(list(args))


def test_init_takes_the_options_of_the_vendors_call(folder: Path) -> None:
    args = ("--batch-num", "2", "--skip-layers", "conv", "--skip-layers", "fc")
    base = ("init", "zoo.onnx", "--dialect", "amct")
    assert run(*base, *args, "--no-activation-offset", "-o", "config.json") == 0
    text = (folder / "config.json").read_text()
    assert text == by_hand(batch_num=2, offset=False, skip=("conv", "fc"))


def test_a_given_configuration_beats_the_options_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "quant.cfg").write_text("batch_num: 3\n")
    base = ("init", "zoo.onnx", "--dialect", "amct", "--from", "quant.cfg")
    assert run(*base, "--batch-num", "2", "-o", "c.json") == 0
    assert (folder / "c.json").read_text() == by_hand(batch_num=3)
    assert "--batch-num has no effect beside --from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--dialect", "amct", "--skip-layers", "cnov"), "Did you mean 'conv'"),
        (("--dialect", "amct", "--skip-layers", "relu"), "'relu' is a Relu"),
        (("--dialect", "amct", "--batch-num", "0"), "it is 1 or more"),
        (("--dialect", "horizon", "--batch-num", "2"), "--batch-num is for dialect amct"),
        (("--skip-layers", "conv"), "--skip-layers is for dialect amct"),
    ],
)
def test_options_of_init_are_checked(
    args: tuple[str, ...], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", "zoo.onnx", *args) == 5
    assert says in capsys.readouterr().err


def test_a_simplified_configuration_written_out_byte_by_byte() -> None:
    cfg = """
    batch_num: 2
    joint_quant: true
    fakequant_precision_mode: FORCE_FP16_QUANT
    skip_fusion_layers: "conv"
    skip_layer_types: "Conv2d" skip_layer_types: "Linear" skip_layer_types: "LSTM"
    skip_layer_types: "GRU" skip_layer_types: "Conv3d" skip_layer_types: "ConvTranspose2d"
    skip_layer_types: "Conv1d" skip_layer_types: "ConvTranspose1d"
    override_layer_configs { layer_name: "pool" calibration_config {
        hfmg_quantize { num_of_bins: 1024 asymmetric: false } } }
    tensor_quantize { layer_name: "maxp" input_index: 0 }
    """
    text = create_config(zoo(), config=cfg)
    document = json.loads(text)
    assert [k for k in document if k not in LAYERS] == [
        "version",
        "batch_num",
        "activation_offset",
        "joint_quant",
        "do_fusion",
        "skip_fusion_layers",
        "fakequant_precision_mode",
        "tensor_quantize",
    ]
    begin = text.index('    "pool":')
    assert text[begin : text.index('    "seq":')] == (
        '    "pool":{\n        "quant_enable":true,\n        "activation_quant_params":{\n'
        '            "num_bits":8,\n            "act_algo":"hfmg",\n            "asymmetric":false,\n'
        '            "num_of_bins":1024\n        },\n        "weight_quant_params":{\n'
        '            "num_bits":8,\n            "channel_wise":false,\n'
        '            "wts_algo":"arq_quantize"\n        }\n    },\n'
    )
    assert [n for n in document if n in LAYERS and document[n]["quant_enable"]] == ["pool"]


def test_a_layer_named_like_a_global_key_cannot_be_listed() -> None:
    model = onnx.ModelProto.FromString(zoo().SerializeToString())
    next(n for n in model.graph.node if n.name == "fc").name = "batch_num"
    with pytest.raises(ConfigValueError, match="global key of that name"):
        create_config(model)


# --------------------------------------------------------------------------------------- round trips

Sections = st.fixed_dictionaries(
    {"quant_enable": st.just(True)},
    optional={
        "dmq_balancer_param": st.sampled_from([0.2, 0.5, 0.8]),
        "activation_quant_params": st.one_of(
            st.fixed_dictionaries(
                {
                    "num_bits": st.just(8),
                    "max_percentile": st.sampled_from([0.9, 0.999999, 1.0]),
                    "min_percentile": st.sampled_from([0.9, 0.999999, 1.0]),
                    "search_range": st.sampled_from([[0.7, 1.3], [0.3, 1.7]]),
                    "search_step": st.sampled_from([0.01, 0.05]),
                    "act_algo": st.just("ifmr"),
                },
                optional={"asymmetric": st.booleans()},
            ),
            st.fixed_dictionaries(
                {"num_bits": st.sampled_from([8, 16]), "act_algo": st.just("hfmg")},
                optional={"asymmetric": st.booleans()},
            ).flatmap(
                lambda d: st.sampled_from([1024, 4096]).map(lambda n: {**d, "num_of_bins": n})
            ),
        ),
        "weight_quant_params": st.one_of(
            st.fixed_dictionaries(
                {
                    "num_bits": st.sampled_from([6, 7, 8]),
                    "channel_wise": st.booleans(),
                    "wts_algo": st.just("arq_quantize"),
                }
            ),
            st.fixed_dictionaries(
                {
                    "num_bits": st.just(8),
                    "num_steps": st.sampled_from([16, 32]),
                    "num_of_iteration": st.integers(0, 5),
                    "wts_algo": st.just("nuq_quantize"),
                }
            ),
        ),
    },
)


KEYS = (
    *("version", "batch_num", "activation_offset", "do_fusion", "skip_fusion_layers"),
    *("quant_enable", "dmq_balancer_param", "activation_quant_params", "weight_quant_params"),
    *("num_bits", "max_percentile", "min_percentile", "search_range", "search_step", "act_algo"),
    *("asymmetric", "num_of_bins", "num_steps", "num_of_iteration", "channel_wise", "wts_algo"),
)


def _ordered(value: Any) -> Any:
    """Return a mapping with its keys in the vendor's order."""
    if not isinstance(value, dict):
        return value
    return {k: _ordered(value[k]) for k in sorted(value, key=KEYS.index)}


@effort(max_examples=60, deadline=None)
@given(
    top=st.fixed_dictionaries(
        {
            "version": st.just(1),
            "batch_num": st.integers(1, 9),
            "activation_offset": st.booleans(),
            "do_fusion": st.booleans(),
            "skip_fusion_layers": st.lists(st.sampled_from(["conv", "dw"]), unique=True),
        }
    ),
    layers=st.dictionaries(st.sampled_from(["conv", "point", "a/b.c", "ü"]), Sections, min_size=1),
)
def test_config_json_becomes_a_recipe_and_the_same_text_again(
    top: dict[str, object], layers: dict[str, object]
) -> None:
    content = {**_ordered(top), **{name: _ordered(layer) for name, layer in layers.items()}}
    text = json.dumps(content, indent=4, separators=(",", ":"), ensure_ascii=False) + "\n"
    assert dump_recipe(load_recipe(text), "amct") == text
    native = convert(text, "native")
    assert convert(native, "amct") == text
    assert convert(native, "native") == native


# -------------------------------------------------------------------------------- what has no words

NATIVE = """calibrant: 1
rules:
- where: all
  activation: mse
- where: {op: Gemm}
  precision: int16
- where: {layer: dw}
  precision: float16
"""


@pytest.mark.parametrize("dialect", ["amct", "amct-retrain", "horizon"])
def test_what_a_dialect_cannot_say_is_listed_and_the_rest_is_written(
    dialect: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "recipe.yaml").write_text(NATIVE.replace("mse", "percentile"))
    base = ("convert-config", "recipe.yaml", "--to", dialect, "--model", "zoo.onnx")
    assert run(*base, "-o", "out.json") == 0
    lost = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Lost: ")]
    assert any("percentile" in line for line in lost)
    assert len(lost) < 12, "one sentence for many layers"
    assert load_recipe("out.json").rules
    assert run("explain", "zoo.onnx", "--recipe", "out.json") == 0
    capsys.readouterr()
    assert run(*base, "--strict") == 6
    assert "cannot say" in capsys.readouterr().err or dialect == "amct"
    assert run(*base, "--json") == 0
    assert json.loads(capsys.readouterr().out)["lost"] == [line[6:] for line in lost]


def test_nothing_is_lost_on_the_way_to_a_dialect_that_can_say_all(folder: Path) -> None:
    lost: list[str] = []
    text = dump_recipe(load_recipe("batch_num: 2\n"), "amct", model="zoo.onnx", lost=lost)
    assert lost == []
    assert text == by_hand(batch_num=2)


def test_without_a_list_what_is_lost_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="activation algorithm 'mse'"):
        convert(
            {"calibrant": 1, "rules": [{"where": "all", "activation": "mse"}]}, "amct", model=zoo()
        )
