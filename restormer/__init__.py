"""Restormer (arXiv:2111.09881), the teacher network, and its weights."""

from restormer.model import Restormer

__all__ = ["Restormer"]
