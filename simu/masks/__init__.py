"""Which neurons train. A mask is (forget scores, retain scores, shape, *, counts) → bool or float [layers, d_model]."""

from simu.masks.constant import Everything, Nothing
from simu.masks.contrastive import Contrastive
from simu.masks.critical import Dual, ForgetOnly, critical_neurons
from simu.masks.random import Random
from simu.masks.report import mask_report
from simu.masks.soft import Soft

__all__ = [
    "Contrastive",
    "Dual",
    "Everything",
    "ForgetOnly",
    "Nothing",
    "Random",
    "Soft",
    "critical_neurons",
    "mask_report",
]
