"""Which neurons a model's answers rest on. Each attribution gives sums over next-token samples: float32 [L, D]."""

from simu.attribution.integrated import Integrated, count_samples, neuron_attribution
from simu.attribution.plan import Plan, plan

__all__ = ["Integrated", "Plan", "count_samples", "neuron_attribution", "plan"]
