"""Which neurons a model's answers rest on. Each attribution gives sums over next-token samples: float32 [L, D]."""

from simu.attribution.activation import Activation
from simu.attribution.engine.planning import Plan, plan
from simu.attribution.gradient import Gradient
from simu.attribution.integrated import Integrated, count_samples, neuron_attribution
from simu.data.batches import feed

__all__ = ["Activation", "Gradient", "Integrated", "Plan", "count_samples", "feed", "neuron_attribution", "plan"]
