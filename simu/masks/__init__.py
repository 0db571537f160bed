"""Which neurons train. A mask is a pure function of scores: (forget, retain, shape) → bool or float [layers, units]."""

from simu.masks.constant import Everything, Nothing
from simu.masks.contrastive import Contrastive
from simu.masks.critical import Dual, ForgetOnly, critical_neurons
from simu.masks.planted import Planted
from simu.masks.random import Random
from simu.masks.report import mask_report
from simu.masks.soft import Soft
from simu.masks.top import Top, top_units

__all__ = [
    "Contrastive",
    "Dual",
    "Everything",
    "ForgetOnly",
    "Nothing",
    "Planted",
    "Random",
    "Soft",
    "Top",
    "critical_neurons",
    "mask_report",
    "top_units",
]
