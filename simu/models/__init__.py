"""Loading models, and where a decoder keeps its parts."""

from simu.models.load import FineTune, FromConfig, Pretrained, load_folder, save_folder, texts_of

__all__ = ["FineTune", "FromConfig", "Pretrained", "load_folder", "save_folder", "texts_of"]
