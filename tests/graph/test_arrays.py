"""Weights as arrays: a model in memory is what its message says, and reads no weight from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.errors import ModelError
from calibrant.graph.arrays import deserialized
from calibrant.graph.load import load

TYPES = ["float32", "float16", "float64", "int8", "uint8", "int32", "int64"]


def message(kind: str = "float32", *, raw: bool = True) -> onnx.ModelProto:
    """Return a model with a large weight, and a small one."""
    made = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[n, 40] x) => (float[n, 40] y)
        {
            floats = Cast <to: int = 1> (large)
            a = MatMul(x, floats)
            y = Add(a, small)
        }
        """
    )
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 100, (40, 40)).astype(kind)
    large = onnx.numpy_helper.from_array(weight, "large")
    if not raw:
        of = onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
        large = onnx.helper.make_tensor("large", of, weight.shape, weight.reshape(-1))
    large.doc_string = "learned"
    small = onnx.numpy_helper.from_array(np.ones(40, np.float32), "small")
    made.graph.initializer.extend([large, small])
    return made


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_the_model_is_what_the_message_says(kind: str, *, raw: bool, keep: bool) -> None:
    given = message(kind, raw=raw)
    before = given.SerializeToString(deterministic=True)
    plain = ir.to_proto(ir.from_proto(message(kind))).SerializeToString(deterministic=True)
    model = deserialized(given, keep=keep)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == plain
    if keep:
        assert given.SerializeToString(deterministic=True) == before
    else:
        assert len(given.SerializeToString()) < 1000  # nothing of the weight is left there


def test_a_large_weight_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(message(), path)
    for model in (load(path), load(message())):
        weight = model.graph.initializers["large"].const_value
        assert weight is not None
        assert np.shares_memory(weight.numpy(), weight.numpy())


@pytest.mark.parametrize("in_file", [False, True])
def test_a_weight_with_too_many_values_is_named(tmp_path: Path, *, in_file: bool) -> None:
    """ONNX's own check looks for too few alone."""
    made = message()
    made.graph.initializer[0].raw_data += bytes(80)
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    with pytest.raises(ModelError, match=r"Weight 'large' .* shape \[40, 40\]"):
        load(path if in_file else made)


def test_weights_in_files_stay_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(message(), path, save_as_external_data=True, location="weights", size_threshold=100)
    weight = load(path).graph.initializers["large"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    expected = onnx.numpy_helper.to_array(message().graph.initializer[0])
    assert np.array_equal(weight.numpy(), expected)
