"""The exact position-parallel engine (docs/attribution.md; arXiv 2510.07822, Eq. 1-2).

Interventions at different positions of one sequence do not see each other: the query at a predicting position attends
to the *clean* keys before it and to its own. So the clean sequence runs once (capture.py); then, for each layer, one
"shadow" stream that holds the predicting positions only runs through the layers above, with clean keys and values
beside its own (cache.py, mask.py, attention.py). The gradient (tail.py) with respect to the injected vectors
(injection.py) is then every sample's own gradient, however many samples a row has.

Nothing here knows an architecture. The blocks, the tail (final norm, head, soft-capping) and the attention masks are
the model's own: blocks are called with the arguments that the model itself gave them, at the positions kept.

Shapes: B rows, T tokens, N shadow positions (padded), R = streams · path points · B, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simu.attribution.engine.attention import to_clean
from simu.attribution.engine.cache import ShadowCache
from simu.attribution.engine.capture import Clean, Dissected, Layout, capture, precise
from simu.attribution.engine.injection import injection, known_attention, repeated, scaled_vectors
from simu.attribution.engine.mask import Arguments
from simu.attribution.engine.tail import Objective, gradients_of_loss, losses
from simu.attribution.engine.units import neuron_scores, origin
from simu.types import NeuronUnit, UserError

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


class Engine:
    """One model, taken apart once; `clean` then `gradients` for each micro-batch. Use inside `undisturbed`.

    It holds nothing of a micro-batch: what a clean pass took is free as soon as its caller lets go of it.
    """

    def __init__(self, model: nn.Module, *, unit: NeuronUnit = "row", recompute: bool = False, logits_rows: int = 1024):
        self.subject = Dissected.of(model)
        self.unit = unit
        self.parts = self.subject.parts
        self.recompute = recompute
        self.logits_rows = logits_rows

    def clean(self, batch: Mapping[str, Tensor], where: Layout) -> Clean:
        """Run the rows once and keep what the shadow streams need. Raises UserError where a block is not understood."""
        return capture(self.subject, batch, where, self.unit)

    def gradients(
        self,
        clean: Clean,
        layers: Sequence[int],
        fractions: Sequence[float],
        weights: Sequence[float],
        objective: Objective,
        together: bool = False,
    ) -> list[Tensor]:
        """∂/∂a of Σ_j w_j · Σ_i L_i(a_j) over the path points, for each of `layers` (ascending): [B, N, D] each.

        Each layer has its own stream and only the layers above it run; streams share every block call. With `together`
        (all layers' vectors scaled at once) `layers` must be all layers, and there is one stream.
        """
        points = len(fractions)
        leaves: list[Tensor] = []
        hidden = repeated(clean.inputs[layers[0]], points)
        for layer in range(layers[0], self.parts.n_layers):
            a, fresh = None, 0
            if layer in layers:
                a = self._scaled(clean, layer, fractions)
                starts = layer == layers[0] or not together
                if starts and leaves:
                    hidden = torch.cat([hidden, repeated(clean.inputs[layer], points)])
                fresh = len(a) if starts else 0
                leaves.append(a)
            hidden = self._through(clean, layer, hidden, a, None, fresh)
        grads = self._gradients_of_loss(clean, hidden, leaves, objective, weights)
        return [g.unflatten(0, (points, -1)).sum(0, dtype=precise(g.dtype)) for g in grads]

    def gradients_at_clean(self, clean: Clean, objective: Objective, weight: float = 1.0) -> list[Tensor]:
        """The same at the end of the path, where a = β: there the intervened state is the clean one whatever the layer,
        so one stream through all layers gives every layer's gradient: L × [B, N, D].

        Doubles as the check that the model can be treated exactly: the stream must give the clean pass's own output.
        """
        hidden, leaves = clean.inputs[0], []
        for layer in range(self.parts.n_layers):
            leaves.append(torch.zeros_like(clean.beta[layer]).requires_grad_())
            hidden = self._through(clean, layer, hidden, None, leaves[-1])
        self._require_same(clean, hidden)
        return [g.to(precise(g.dtype)) for g in self._gradients_of_loss(clean, hidden, leaves, objective, [weight])]

    @torch.no_grad()
    def gains(self, clean: Clean, layers: Sequence[int], objective: Objective, together: bool = False) -> list[Tensor]:
        """L_i(β) − L_i(0), 0 the path's beginning, summed over each row's samples, for each of `layers`: float32 or 64
        [B] each.

        What the scores of a layer add up to where the path integral has converged. With `together` all vectors are 0
        at once, and every layer has the same. Forwards only.
        """
        at_clean = self._row_losses(clean, clean.output, objective)
        ends = [layers[0]] if together else layers
        found = []
        for start in ends:
            hidden = clean.inputs[start]
            for layer in range(start, self.parts.n_layers):
                replaced = together or layer == start
                a = self._scaled(clean, layer, [0.0]) if replaced else None
                hidden = self.block(clean, layer, hidden, a, None, len(hidden) if layer == start else 0)
            found.append(at_clean - self._row_losses(clean, hidden, objective))
        return found * (len(layers) // len(ends))

    def scores(self, clean: Clean, layer: int, gradient: Tensor) -> Tensor:
        """Of each neuron of a layer, from what `gradients` gives for it: [B, N, units]."""
        return neuron_scores(self.subject, clean, layer, gradient)

    def _scaled(self, clean: Clean, layer: int, fractions: Sequence[float]) -> Tensor:
        return scaled_vectors(clean, layer, fractions, origin(self.subject, layer, self.unit))

    def _row_losses(self, clean: Clean, hidden: Tensor, objective: Objective) -> Tensor:
        values = losses(self.subject, clean.where, hidden, objective, self.logits_rows)
        rows = clean.where.scored.nonzero()[:, 0]
        return values.new_zeros(len(hidden)).index_add_(0, rows, values)

    def check(self, clean: Clean) -> None:
        """Raise UserError unless the blocks, re-run on the kept positions, reproduce the model's own output."""
        with torch.no_grad():
            hidden = clean.inputs[0]
            for layer in range(self.parts.n_layers):
                hidden = self._through(clean, layer, hidden, None, None)
        self._require_same(clean, hidden)

    def _require_same(self, clean: Clean, hidden: Tensor) -> None:
        if hidden.device.type == "meta":
            return
        rows = clean.where.scored
        own, again = clean.output[rows].detach().double(), hidden[rows].detach().double()
        error = float((again - own).norm() / own.norm().clamp_min(1e-30))
        if not error <= TOLERANCE.get(hidden.dtype, 0.1):
            raise UserError(
                f"{self.subject.name} cannot be treated exactly: its blocks, re-run on the predicting positions "
                f"alone, differ from its own forward pass by {error:.1e} (relative)"
            )

    def _through(
        self, clean: Clean, layer: int, hidden: Tensor, a: Tensor | None, offset: Tensor | None, fresh: int = 0
    ) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(
                self.block, clean, layer, hidden, a, offset, fresh, use_reentrant=False, preserve_rng_state=False
            )
        return self.block(clean, layer, hidden, a, offset, fresh)

    def block(
        self, clean: Clean, layer: int, hidden: Tensor, a: Tensor | None, offset: Tensor | None, fresh: int = 0
    ) -> Tensor:
        """Block `layer` on [R, N, D], its down-projection's output replaced by `a` in the last rows, or + `offset`.

        The last `fresh` rows hold the clean input, so their attention has nothing to compute either.
        """
        subject, rows = self.subject, len(hidden)
        keys, values = clean.keys[layer], clean.values[layer]
        cache = ShadowCache(keys, values, clean.apart)
        call = {subject.hidden_names[layer]: hidden} | Arguments(subject.name, clean).of(layer, rows, cache)
        with ExitStack() as stack:
            if clean.apart:
                stack.enter_context(to_clean(subject.attentions[layer], keys, values))
            stack.enter_context(injection(subject, clean, layer, rows, a, offset))
            stack.enter_context(known_attention(subject, clean, layer, rows, fresh))
            out: Tensor = self.parts.blocks[layer](**call)
        if not cache.asked and fresh < rows:
            raise UserError(
                f"{subject.name}: layer {layer} never asked the key-value cache, so its attention cannot be "
                "given clean keys; allowed are decoders that use transformers' cache"
            )
        return out

    def _gradients_of_loss(
        self,
        clean: Clean,
        hidden: Tensor,
        leaves: Sequence[Tensor],
        objective: Objective,
        weights: Sequence[float],
    ) -> tuple[Tensor, ...]:
        return gradients_of_loss(self.subject, clean.where, hidden, leaves, objective, weights, self.logits_rows)
