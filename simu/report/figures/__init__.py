"""Figures 2–6 and the training curves."""

from simu.report.figures.draw import draw

__all__ = ["draw"]
