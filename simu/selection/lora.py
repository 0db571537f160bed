"""LoRA adapters on attention (peft), beside the mask's neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor, nn

from simu.fields import AtMost, Seed, between, component, narrow
from simu.models.anatomy import Anatomy, anatomy, is_conv1d
from simu.selection.core import Selection
from simu.selection.parts import check_free, check_mask, freeze, is_low, whole
from simu.selection.rows import unit_parts
from simu.types import NeuronMask, NeuronUnit


class LoraPart:
    """peft's LoRA adapters on the attention projections; the projections themselves are frozen."""

    ADAPTER = "selection"

    def __init__(
        self, model: nn.Module, parts: Anatomy, *, r: int, alpha: int, dropout: float, seed: int, master: bool
    ) -> None:
        from peft import LoraConfig, LoraModel  # slow to import, and needed by this option alone

        targets = [named for layer in parts.attention for named in layer]
        self.names: tuple[str, ...] = tuple(f"{name}.weight" for name, _ in targets)
        config = LoraConfig(
            r=r,
            lora_alpha=alpha,
            lora_dropout=dropout,
            bias="none",
            target_modules=[name for name, _ in targets],
            fan_in_fan_out=is_conv1d(targets[0][1]),
        )
        with torch.random.fork_rng():
            torch.manual_seed(narrow(seed))
            self._tuner = LoraModel(model, config, self.ADAPTER)
        self._layers = {name: model.get_submodule(name) for name, _ in targets}
        for _, parameter in self.named_parameters():
            if master and is_low(parameter):
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in self._layers.items():
            for factor in ("lora_A", "lora_B"):
                yield f"{name}.{factor}", getattr(layer, factor)[self.ADAPTER].weight

    @torch.no_grad()
    def merged(self) -> Iterator[tuple[str, Tensor]]:
        for name, layer in self._layers.items():
            weight = whole(layer.base_layer.weight).clone()  # type: ignore[arg-type, union-attr]
            weight += layer.get_delta_weight(self.ADAPTER)  # type: ignore[operator]
            yield f"{name}.weight", weight

    def sync(self, force: bool = False) -> None:
        pass  # peft computes with the adapters themselves

    def merge(self) -> None:
        self._tuner.merge_and_unload()

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        yield from ()


def select_lora(
    model: nn.Module,
    mask: NeuronMask | None,
    *,
    unit: NeuronUnit = "row",
    r: int,
    alpha: int,
    dropout: float,
    seed: int,
    master: bool = True,
) -> Selection:
    """Make `model` train adapters on attention and the mask's neurons, in place, until `Selection.merge`.

    mask: bool or float [L, units]; None selects none. The rest as `Lora` and `select_parameters`.
    """
    check_free(model)
    parts = anatomy(model)
    if mask is None:
        mask = torch.zeros(parts.shape(unit), dtype=torch.bool)
    check_mask(parts, mask, unit)
    frozen = freeze(model)
    # before the neurons: peft freezes all it finds
    adapters = LoraPart(model, parts, r=r, alpha=alpha, dropout=dropout, seed=seed, master=master)
    return Selection(model, [adapters, *unit_parts(parts, mask, unit, master)], frozen)


@component
class Lora:
    """LoRA adapters on attention (peft) in place of attention in full, beside the mask's neurons; with `mask=none`, the
    adapters alone."""

    reads_mask: ClassVar[bool] = True
    r: Annotated[int, between(1, 65536), AtMost("width")] = 8
    """Rank."""
    alpha: Annotated[int, between(1, 65536)] = 16
    """The adapters' product is scaled by alpha / r."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    seed: Seed = 0
    """Of the adapters' initial values."""

    def __call__(
        self, model: nn.Module, mask: NeuronMask | None = None, *, unit: NeuronUnit = "row", master: bool = True
    ) -> Selection:
        """mask: bool or float [L, units]; None selects no neurons."""
        fields = {"r": self.r, "alpha": self.alpha, "dropout": self.dropout, "seed": self.seed}
        return select_lora(model, mask, unit=unit, **fields, master=master)  # type: ignore[arg-type]
