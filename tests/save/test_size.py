"""The sizes that are said are those of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrant.recipe import Recipe
from calibrant.save.size import file_bytes, given_bytes, weight_bytes
from tests.models import NETS, Model, Weights, build, convolution, structure, with_external_data
from tests.models.convolution import IMAGE
from tests.road import batches, every_net, quantize, quantized


def small_nodes() -> Model:
    """A convolution and forty nodes without weights: the graph is most of the file."""
    steps = "\n".join(f"a{i + 1} = Sigmoid (a{i})" for i in range(40))
    return build(
        f"net (float[N,3,16,16] x) => (float[N,2,14,14] a40) {{\na0 = Conv (x, w)\n{steps}\n}}",
        {"w": Weights(1).conv(2, 3)},
        IMAGE,
    )


def weights_in_bodies() -> Model:
    """An If whose branches hold their weights as Constant nodes of their own."""
    model, feeds = structure.if_subgraph()
    loaded = ir.from_proto(model)
    for graph in loaded.graphs():
        for node in list(graph):
            for value in node.inputs:
                if graph is loaded.graph or value is None or value.const_value is None:
                    continue
                tensor = ir.tensor(np.tile(value.const_value.numpy(), (40, 1, 1, 1)))
                constant = ir.node("Constant", [], attributes={"value": tensor})
                graph.insert_before(node, constant)
    return ir.to_proto(loaded), feeds


ODD: list[Callable[[], Model]] = [
    structure.constant_weight,
    small_nodes,
    weights_in_bodies,
    structure.unnamed_nodes,
]


@pytest.mark.parametrize("make", [*ODD, *(NETS[n] for n in every_net())])
def test_a_model_in_memory_is_as_large_as_its_file(
    tmp_path: Path, make: Callable[[], Model]
) -> None:
    model = ir.from_proto(make()[0])
    ir.save(model, tmp_path / "model.onnx")
    real = (tmp_path / "model.onnx").stat().st_size
    assert file_bytes(model) == pytest.approx(real, rel=0.002)
    assert real * 0.2 < weight_bytes(model) + 4000 < real + 4000


def test_files_of_weights_count(tmp_path: Path) -> None:
    path = with_external_data(convolution.residual()[0], tmp_path)
    model = ir.load(path)
    real = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2
    assert given_bytes(path, model) == real
    assert given_bytes(model, model) == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("target", ["generic", "onnxruntime"])
@pytest.mark.parametrize("make", ODD[:2])
def test_the_summary_says_the_sizes_of_the_files(
    tmp_path: Path, make: Callable[[], Model], target: str
) -> None:
    model, feeds = make()
    source = tmp_path / "float.onnx"
    onnx.save(model, source)
    result = quantize(source, batches(feeds, count=1), Recipe(target=target))
    result.save(tmp_path / "run")
    size = result.summary["size"]
    deploy = (tmp_path / "run" / "deploy.onnx").stat().st_size
    assert size["float_bytes"] == source.stat().st_size
    assert size["deploy_bytes"] == pytest.approx(deploy, rel=0.002)
    assert size["ratio"] == pytest.approx(deploy / source.stat().st_size, rel=0.002)


@pytest.mark.parametrize("name", every_net())
def test_no_file_holds_a_weight_that_nobody_reads(name: str, tmp_path: Path) -> None:
    quantized(name, "generic").save(tmp_path, formats=["horizon", "ascend"])
    for path in tmp_path.glob("*.onnx"):
        model = ir.load(path)
        for graph in model.graphs():
            unread = [
                n
                for n, v in graph.initializers.items()
                if not v.uses() and not v.is_graph_output()
            ]
            assert unread == [], path.name
