"""Optimizers. A component builds one from named parameters; `Sophia` itself is a torch.optim.Optimizer."""

from simu.optim.adamw import BuildAdamW
from simu.optim.sampled import sampled_nll
from simu.optim.sophia import BuildSophia, Sophia

__all__ = ["BuildAdamW", "BuildSophia", "Sophia", "sampled_nll"]
