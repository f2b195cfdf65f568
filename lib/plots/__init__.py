"""Figures from tables alone: one function per figure, each takes a table and returns a matplotlib figure."""

from lib.plots.common import COLOURS, LABELS, STYLE
from lib.plots.noise import curves, noise
from lib.plots.procedure import procedure
from lib.plots.regimes import regimes

__all__ = ["COLOURS", "LABELS", "STYLE", "curves", "noise", "procedure", "regimes"]
