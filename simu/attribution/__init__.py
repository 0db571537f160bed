"""Which neurons a model's answers rest on. Each attribution gives sums over next-token samples:
float32 [L, units]."""

from simu.attribution.activation import Activation
from simu.attribution.engine.planning import Plan, plan
from simu.attribution.exact import neuron_attribution
from simu.attribution.gradient import Gradient
from simu.attribution.integrated import Integrated
from simu.attribution.rivals import FisherRatio, GradNorm, MemFlex, RandomScores, Snip, Wagle
from simu.attribution.samples import count_samples
from simu.data.batches import attribution_batches

__all__ = [
    "Activation",
    "FisherRatio",
    "GradNorm",
    "Gradient",
    "Integrated",
    "MemFlex",
    "Plan",
    "RandomScores",
    "Snip",
    "Wagle",
    "attribution_batches",
    "count_samples",
    "neuron_attribution",
    "plan",
]
