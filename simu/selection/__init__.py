"""Which parameters train: all of them, or attention and the selected rows, or columns, of each
down-projection."""

from simu.selection.core import Selection, apply_tensors
from simu.selection.everything import Everything
from simu.selection.lora import Lora
from simu.selection.select import select_parameters
from simu.selection.selected import Selected

__all__ = ["Everything", "Lora", "Selected", "Selection", "apply_tensors", "select_parameters"]
