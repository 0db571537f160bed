"""`select_parameters`: which parameters train, by mask and scope."""

from __future__ import annotations

from torch import nn

from simu.models.anatomy import anatomy
from simu.selection.core import Scope, Selection
from simu.selection.parts import check_free, check_mask, freeze
from simu.selection.rows import unit_parts
from simu.selection.tensors import TensorPart, attention_parts, owners
from simu.types import NeuronMask, NeuronUnit, UserError


def select_parameters(
    model: nn.Module,
    mask: NeuronMask | None = None,
    *,
    unit: NeuronUnit = "row",
    scope: Scope | None = None,
    master: bool = True,
) -> Selection:
    """Make `model` train what `mask` and `scope` say, in place, until `Selection.merge`.

    mask: bool [L, units], or float in [0, 1], which scales a neuron's update exactly: θ ← θ + w·Δ.
    unit: what the mask is of: `row`, units are the D rows of each down-projection; `hidden`, its F columns.
    scope: "selected" trains q, k, v, o in full (biases too) and the neurons of each down-projection (rows with their
    bias entries) where mask > 0; "all" trains every parameter and reads no mask. None: "selected" with a mask, else
    "all".
    master: bfloat16 and float16 tensors are trained through float32 masters; False trains them as they are.
    Put the model on its device, and shard it (FSDP2), before: the neurons are then whole on every process, each with
    the gradient of its own share of the batch (to be summed); all else is sharded as the model is.
    Raises UserError for a mask that does not fit or a model already selected.
    """
    scope = scope or ("all" if mask is None else "selected")
    check_free(model)
    if scope == "all":
        frozen = freeze(model)
        return Selection(model, [TensorPart(*owner, master=master) for owner in owners(model)], frozen)
    if mask is None:
        raise UserError("selection: scope 'selected' needs a mask; allowed is bool or float [layers, units]")
    parts = anatomy(model)
    check_mask(parts, mask, unit)
    frozen = freeze(model)
    return Selection(model, [*unit_parts(parts, mask, unit, master), *attention_parts(parts, master)], frozen)
