"""Where a decoder keeps its layers, its attention projections and its MLP down-projections.

Found by structure (the parent's name and the child's), not by a list of classes, so a new family that keeps to the
names below needs nothing here. What cannot be read with certainty is refused by name with the reason.

| family                                      | attention                          | down-projection   |
|---------------------------------------------|------------------------------------|-------------------|
| Llama, Mistral, OLMo 1-3, Qwen2/3, Gemma 1-3 | self_attn.{q,k,v,o}_proj           | mlp.down_proj     |
| Phi, Phi-3                                  | {q,k,v}_proj + dense; qkv_proj + o_proj | mlp.fc2; mlp.down_proj |
| GPT-NeoX                                    | attention.query_key_value, dense   | mlp.dense_4h_to_h |
| GPT-2                                       | attn.c_attn, c_proj (Conv1D)       | mlp.c_proj (Conv1D) |
| OPT                                         | self_attn.{q,k,v}_proj, out_proj   | fc2               |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from simu.types import NeuronUnit, UserError

BLOCK_LISTS = ("layers", "h")
ATTENTION = ("self_attn", "attention", "attn")
PROJECTIONS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "dense"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("qkv_proj", "o_proj"),
    ("query_key_value", "dense"),
    ("c_attn", "c_proj"),
)
DOWN = ("mlp.down_proj", "mlp.fc2", "mlp.dense_4h_to_h", "mlp.c_proj", "fc2")
EXPERTS = ("mlp.experts", "mlp.gate.weight", "mlp.router", "block_sparse_moe", "moe", "experts")
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a decoder that attribution, masks and selection speak of. Tuples run over layers, in order."""

    blocks: tuple[nn.Module, ...]
    """Decoder layers."""
    down_projections: tuple[nn.Module, ...]
    """nn.Linear, or GPT-2's Conv1D (weight transposed: [F, D])."""
    attention: tuple[tuple[tuple[str, nn.Module], ...], ...]
    """A layer's (qualified name, module) of q, k, v, o, or of the fused forms."""
    down_names: tuple[str, ...]
    """Qualified names of the down-projections."""
    d_model: int
    embed: nn.Module
    head: nn.Module
    final_norm: nn.Module | None
    """None where the model has none (OPT-350m)."""

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_neurons(self) -> int:
        """L · D, of rows: LLaMA2-7B 131072, OLMo-1B 32768 (paper, Table 5)."""
        return self.n_layers * self.d_model

    def units(self, unit: NeuronUnit) -> int:
        """Neurons a layer: rows of the down-projection, D, or its columns, F. Raises UserError for F that differ."""
        if unit == "row":
            return self.d_model
        found = sorted({_inputs(module) for module in self.down_projections})
        if len(found) != 1:
            raise UserError(
                f"attribution.unit=hidden: the layers' MLPs have {found[0]} to {found[-1]} hidden neurons; allowed is "
                "one number for all layers, or row"
            )
        return found[0]

    def shape(self, unit: NeuronUnit) -> tuple[int, int]:
        """(L, units): of scores and masks."""
        return self.n_layers, self.units(unit)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's Conv1D keeps its weight transposed ([in, out]): row k is column k there."""
    return isinstance(module, Conv1D)


def unit_dim(module: nn.Module, unit: NeuronUnit) -> int:
    """The dimension of a down-projection's weight, as it is stored, along which the neurons lie."""
    return int((unit == "hidden") != is_conv1d(module))


def by_unit(module: nn.Module, weight: Tensor, unit: NeuronUnit) -> Tensor:
    """A view of a down-projection's weight, or of its gradient, with a neuron a row: [D, F], of hidden ones [F, D]."""
    return weight.t() if unit_dim(module, unit) else weight


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a Hugging Face causal language model; works on the meta device too.

    Raises UserError that names the model and the reason: no language-model head, unknown names, mixture of experts,
    cross-attention, a wrapped or odd-shaped projection.
    """
    hf: Any = model
    name = type(model).__name__
    head = hf.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise UserError(f"{name}: has no language-model head; allowed is a decoder with one (…ForCausalLM)")
    config = hf.config.get_text_config()
    d_model = int(config.hidden_size)
    list_name, blocks, decoder = _blocks(model, name, int(config.num_hidden_layers))
    down = [_down_projection(block, f"{name}: {list_name}.{i}", d_model) for i, block in enumerate(blocks)]
    attention = tuple(_attention(block, f"{list_name}.{i}", name) for i, block in enumerate(blocks))
    norms = [getattr(decoder, n) for n in FINAL_NORMS if isinstance(getattr(decoder, n, None), nn.Module)]
    return Anatomy(
        blocks=tuple(blocks),
        down_projections=tuple(module for _, module in down),
        attention=attention,
        down_names=tuple(f"{list_name}.{i}.{child}" for i, (child, _) in enumerate(down)),
        d_model=d_model,
        embed=hf.get_input_embeddings(),
        head=head,
        final_norm=norms[0] if norms else None,
    )


def _blocks(model: nn.Module, name: str, depth: int) -> tuple[str, list[nn.Module], nn.Module]:
    """(qualified name, decoder layers, the module that holds the list)."""
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and path.rpartition(".")[2] in BLOCK_LISTS
        and len(module) == depth
        and any(_child(module[0], a) is not None for a in ATTENTION)
    ]
    if len(found) != 1:
        where = ", ".join(path for path, _ in found) or "none"
        raise UserError(f"{name}: decoder layers found: {where}; allowed is one list of {depth} blocks with attention")
    path, blocks = found[0]
    return path, list(blocks), model.get_submodule(path.rpartition(".")[0])


def _child(module: nn.Module, path: str) -> object | None:
    """module.a.b or None."""
    at: object = module
    for part in path.split("."):
        at = getattr(at, part, None)
        if at is None:
            return None
    return at


def _width(module: nn.Module) -> int:
    """Output channels of a projection."""
    return int(module.nf if is_conv1d(module) else module.out_features)  # type: ignore[arg-type]


def _inputs(module: nn.Module) -> int:
    return int(module.nx if is_conv1d(module) else module.in_features)  # type: ignore[arg-type]


def _down_projection(block: nn.Module, where: str, d_model: int) -> tuple[str, nn.Module]:
    for path in EXPERTS:
        if _child(block, path) is not None:
            raise UserError(
                f"{where} is a mixture of experts ({path}): a neuron has no single row there; "
                "allowed are dense decoders"
            )
    found = [(path, _child(block, path)) for path in DOWN if _child(block, path) is not None]
    if len(found) != 1:
        raise UserError(
            f"{where} ({type(block).__name__}) has no MLP down-projection by a known name; "
            f"allowed are {', '.join(DOWN)}"
        )
    path, module = found[0]
    if not isinstance(module, nn.Linear | Conv1D):
        raise UserError(
            f"{where}.{path} is a {type(module).__name__}; allowed is nn.Linear or Conv1D (merge an adapter before)"
        )
    if _width(module) != d_model:
        raise UserError(f"{where}.{path} has {_width(module)} outputs; allowed is d_model={d_model}")
    return path, module


def _attention(block: nn.Module, where: str, name: str) -> tuple[tuple[str, nn.Module], ...]:
    if _child(block, "crossattention") is not None or _child(block, "encoder_attn") is not None:
        raise UserError(f"{name}: {where} has cross-attention; allowed are decoders with self-attention only")
    parents = [a for a in ATTENTION if isinstance(_child(block, a), nn.Module)]
    if len(parents) != 1:
        raise UserError(f"{name}: {where} has {len(parents)} attention modules; allowed is one of {ATTENTION}")
    parent = getattr(block, parents[0])
    linear = {child: m for child, m in parent.named_children() if isinstance(m, nn.Linear | Conv1D)}
    for names in PROJECTIONS:
        if set(names) == set(linear):
            return tuple((f"{where}.{parents[0]}.{n}", linear[n]) for n in names)
    allowed = " / ".join("+".join(names) for names in PROJECTIONS)
    raise UserError(
        f"{name}: {where}.{parents[0]} ({type(parent).__name__}) has the projections "
        f"{sorted(linear) or 'none'}; allowed are {allowed}"
    )
