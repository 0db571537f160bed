"""SIMU: selective influence machine unlearning (arXiv 2510.07822), as a reference implementation and a bench."""

__version__ = "0.1.0"
