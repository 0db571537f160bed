"""Which parameters train: all of them, or attention and the selected rows of each down-projection."""

from simu.selection.core import Everything, Lora, Selected, Selection, apply_tensors, select_parameters

__all__ = ["Everything", "Lora", "Selected", "Selection", "apply_tensors", "select_parameters"]
