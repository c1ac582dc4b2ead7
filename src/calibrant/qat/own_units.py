"""Quantizers whose parameters are the values themselves, with AMCT's arithmetic while they train.

A script of the vendor's brings an optimizer and rates of its own, made for clips, scales, weights and biases as they are.
So nothing is measured in shares here, and a step moves what it moves in the toolkit:

| | While training | In evaluation, and deployed |
|---|---|---|
| activation | clip(round(x / s + o)), and clips that cannot be used are set back | clip(round(x / s) + o) |
| weight | rounded | rounded |
| bias | as it is | rounded to steps of both scales |

A weight is rounded by the quantizer that it has, whatever its kind (`WeightQuantizer.in_own_units`).

The two orders of rounding differ where x / s ends on a half and the offset is odd.

Source: the public code of AMCT for PyTorch (training with quantization); docs/explanation/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from calibrant.dialects import load_recipe
from calibrant.graph.passes.fuse_batchnorm import FOLDED
from calibrant.plan import resolve
from calibrant.plan.folding import float_weight
from calibrant.qat.functional import ulq, usable_clips
from calibrant.qat.quantizers import ActivationQuantizer, BiasQuantizer
from calibrant.qat.recipe import asked_of_training
from calibrant.qat.trainable import Trainable

__all__ = ["NaturalActivation", "NaturalBias", "in_own_units", "set_clips"]


class NaturalActivation(ActivationQuantizer):
    """A clip range that is learned; `ends` are clip_max and clip_min."""

    @classmethod
    def like(cls, other: ActivationQuantizer, *, fixed_min: bool) -> NaturalActivation:
        """Begin where another one is."""
        spec = replace(other.spec, fixed_min=fixed_min)
        found = cls(other.clip_max.item(), other.clip_min.item(), spec)
        ends = torch.stack((other.clip_max, other.clip_min)).detach()
        found.unit = torch.ones_like(other.unit)
        found.ends = nn.Parameter(ends, requires_grad=other.ends.requires_grad)
        return found

    def forward(self, x: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Quantize; without an input, return scale and zero point."""
        spec = self.spec
        if x is None or not self.training or not spec.learns or spec.half_scale:
            return super().forward(x)
        high, low = self.ends[0], self.ends[1]
        before = {"clip_max_pre": self.last[0].clone(), "clip_min_pre": self.last[1].clone()}
        y = ulq(
            x.float(),
            high,
            low,
            bits=spec.bits,
            symmetric=spec.symmetric,
            fixed_min=spec.fixed_min,
            **before,
        )
        with torch.no_grad():
            used = torch.stack(usable_clips(high, low, fixed_min=spec.fixed_min, **before))
            self.last.copy_(used)
            self.ends.copy_(used)
        return y


class NaturalBias(BiasQuantizer):
    """A bias as it is; `change` is the bias."""

    @classmethod
    def like(cls, other: BiasQuantizer) -> NaturalBias:
        """Begin where another one is."""
        bias = other.bias.detach()
        found = cls(
            torch.zeros_like(bias).numpy(),
            integers=other.integers,
            wide=other.wide,
            groups=other.groups,
        )
        found.change = nn.Parameter(bias.clone())
        return found

    def forward(self, of_input: Tensor | None, of_weight: Tensor) -> Tensor:
        """Return the bias; in evaluation, rounded to steps of the product of both scales."""
        return self.bias if self.training else super().forward(of_input, of_weight)


def in_own_units(qat: Trainable, config_file: str | Path | None = None) -> None:
    """Let every quantizer train as it is, as in the toolkits; a layer with a folded batch normalization keeps its gains.

    Args:
        qat: The network.
        config_file: A configuration for training, which says where the lower end of a range stays 0; None where none does.
    """
    module, trained = qat.module, qat.trained
    model, plan, params = qat.solution.model, qat.solution.plan, qat.solution.params
    nodes = {n.name or "": n for n in model.graph}
    said: Mapping[str, bool] = {}
    if config_file is not None:
        recipe = load_recipe(config_file)
        said = asked_of_training(recipe, resolve(recipe, model, check=False), plan).fixed_min
    made: dict[str, nn.Module] = {}
    for d in plan.activations:
        path = trained.activations[d.id]
        quantizer = module.get_submodule(path)
        if path in made or not isinstance(quantizer, ActivationQuantizer):
            continue
        asked = [said[n] for n, _ in d.users if n in said]
        behind_relu = any(
            v.name == d.tensor and n.op_type == "Relu" for n in nodes.values() for v in n.outputs
        )
        fixed = asked[0] if asked else behind_relu and config_file is not None
        made[path] = NaturalActivation.like(quantizer, fixed_min=fixed and not d.spec.symmetric)
    for w in plan.weights:
        weight = float_weight(model, plan, w, params.activations)
        gains = bool(nodes[w.layer].meta.get(FOLDED))
        made.setdefault(
            trained.weights[w.layer],
            trained.weight(w.layer).in_own_units(
                weight, params.layers[w.layer].weight, gains=gains
            ),
        )
        if w.layer in trained.biases:
            made[trained.biases[w.layer]] = NaturalBias.like(trained.bias(w.layer))
    for path, quantizer in made.items():
        module.set_submodule(path, quantizer)


@torch.no_grad()
def set_clips(
    quantizer: ActivationQuantizer, high: float, low: float, *, together: bool = True
) -> None:
    """Set both clips.

    Args:
        quantizer: What has them.
        high: Upper clip [units of x].
        low: Lower clip.
        together: Processes that train together get the mean of theirs; each of them has to call this then.
    """
    clips = torch.tensor([high, low], device=quantizer.ends.device)
    if together:
        clips = _over_workers(clips)
    quantizer.ends.copy_(clips / quantizer.unit)
    quantizer.last.copy_(clips)


def _over_workers(values: Tensor) -> Tensor:
    """Return the mean over the processes that train together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    distributed.all_reduce(values)
    return values / distributed.get_world_size()
