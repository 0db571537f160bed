"""The contract of each slot as checks, for authors of extensions and for this project's own tests.

    from simu.testing import check_mask
    check_mask(MyMask(t=0.3))

Each check is a small named function; the first that fails raises AssertionError, which names component, check and the
likely mistake. `expected_failed_checks={name: reason}` lets a check fail that a component fails knowingly.
"""

from simu.testing.attacks import check_attack
from simu.testing.attributions import check_attribution
from simu.testing.datasets import check_data
from simu.testing.evaluators import check_evaluator
from simu.testing.losses import check_loss
from simu.testing.masks import check_mask
from simu.testing.metrics import check_metric
from simu.testing.optimizers import check_optimizer
from simu.testing.perturbations import check_perturbation

__all__ = [
    "check_attack",
    "check_attribution",
    "check_data",
    "check_evaluator",
    "check_loss",
    "check_mask",
    "check_metric",
    "check_optimizer",
    "check_perturbation",
]
