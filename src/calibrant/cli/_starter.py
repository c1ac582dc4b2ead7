"""A recipe to start from: the defaults, and every layer of a model as a rule in comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from calibrant.data.batch import shape_text
from calibrant.text.yaml_text import write

if TYPE_CHECKING:
    import onnx_ir as ir

    from calibrant.plan import LayerDecision, Plan
    from calibrant.recipe import Recipe

__all__ = ["starter_recipe"]

#: Texts that need no quotes in YAML.
_PLAIN = re.compile(r"[\w./]([\w./-]*\w)?")

HEAD = """\
# Recipe for {model}
#
#   calibrant quantize {model} --data calib.npz --recipe THIS_FILE --out run/
#
# Rules stand in order, and the last one that matches wins, key by key.
# A line that begins with '#' says nothing; take the '#' away to make it count.

calibrant: 1
{target:<28} # {targets}; or the file of a target

calibration:
  exact: false              # true keeps raw values instead of histograms: the vendors' last digit
  # batch_size: 8           # samples in a batch; without it, what fits
  # batch_num: 16           # batches to use; without it, all

fusion:
  batch_norm: true          # fold batch normalization into the layer before it
  skip: []                  # layers that keep theirs

# auto keeps what makes the outputs better; on and off decide
bias_correction: auto       # take the mean error of a layer out of its bias
equalize: auto              # balance channels between layers

# An input that is the same in every use becomes a constant.
{fix}

rules:
  - where: all
    precision: int8         # int4 (weights), int8, int16, float16, float32
    activation:
      algorithm: auto       # {activations}
      # symmetric: true     # zero point 0; without it, as the target has it
      per_channel: false    # one scale a channel
    weight:
      algorithm: auto       # {weights}
      per_channel: true     # one scale an output channel

  # Whole groups:
  # - where: {{op: {op}}}
  #   precision: int16
  # - where: {{layer: '{pattern}'}}
  #   precision: float32
"""


def starter_recipe(model: ir.Model, plan: Plan, name: str, recipe: Recipe) -> str:
    """Write a recipe that changes nothing until it is edited.

    Args:
        model: The model that the plan belongs to.
        plan: Its plan without a recipe.
        name: Name of the model file.
        recipe: Says the target, a name or the path of its file, and which inputs are fixed.
    """
    from calibrant import algorithms
    from calibrant.graph import targets

    known = algorithms.names()
    target = recipe.target
    fixed = write({"fix": {f.name: f.plain for f in recipe.fix}}).rstrip()
    first = plan.layers[0]
    stem = first.node.rsplit("/", 1)[0] + "/" if "/" in first.node.strip("/") else first.node[:3]
    head = HEAD.format(
        model=name,
        target=f"target: {target if _PLAIN.fullmatch(target) else json.dumps(target)}",
        targets=", ".join(targets.names()),
        fix=fixed if recipe.fix else "# fix: {sr: 16000}",
        activations=", ".join(["auto", *known["activation"]]),
        weights=", ".join(["auto", *known["weight"]]),
        op=first.op_type,
        pattern=f"{stem}*".replace("'", "''"),
    )
    layers = "\n".join(line for decision in plan.layers for line in _layer(decision, model))
    count = len(plan.layers)
    return f"{head}\n  # The {count} layers of this model, in order:\n{layers}\n"


def _layer(decision: LayerDecision, model: ir.Model) -> Iterator[str]:
    from calibrant.graph.ops import weight_index

    node = next(n for n in model.graph if n.name == decision.node)
    index = weight_index(node)
    ends = [_shape(node.inputs[0]), _shape(node.outputs[0])]
    about = f"{node.op_type} {' -> '.join(s for s in ends if s)}"
    if index is not None:
        about += f", weight {_shape(node.inputs[index])}"
    if not decision.quantized:
        about += f"; stays in float: {decision.reason}"
    where = write({"where": {"layer": decision.node}}).strip().replace("\n", " ")
    yield f"  # - {where:<40} # {about}"
    yield f"  #   precision: {'int8' if decision.quantized else 'float32'}"


def _shape(value: ir.Value | None) -> str:
    if value is None or value.shape is None:
        return ""
    return shape_text([d if isinstance(d, int) else d.value for d in value.shape])
