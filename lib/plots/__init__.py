"""Figures from tables alone: one function per figure, each takes a table and returns a matplotlib figure."""

from lib.plots.common import COLOURS, LABELS, STYLE
from lib.plots.cosine import cosine
from lib.plots.curvature import curvature, scatter
from lib.plots.disagreement import disagreement
from lib.plots.dynamics import dynamics, seeds
from lib.plots.early import periods, policies, schedules
from lib.plots.flow import METHODS, flow, link, mask_updates
from lib.plots.hessian import hessian_training, hessian_updates
from lib.plots.init import KIND_NAMES, initialisation
from lib.plots.interpolation import LINES, interpolation, network_map
from lib.plots.lottery import ROWS, functions, lottery
from lib.plots.methods import FORM_NAMES, methods
from lib.plots.noise import curves, noise
from lib.plots.noise_fisher import noise_fisher
from lib.plots.procedure import procedure
from lib.plots.regimes import regimes
from lib.plots.settings import flow_by_init, settings
from lib.plots.signal import signal
from lib.plots.spectrum import spectrum

__all__ = [
    "COLOURS",
    "FORM_NAMES",
    "KIND_NAMES",
    "LABELS",
    "LINES",
    "METHODS",
    "ROWS",
    "STYLE",
    "cosine",
    "curvature",
    "curves",
    "disagreement",
    "dynamics",
    "flow",
    "flow_by_init",
    "functions",
    "hessian_training",
    "hessian_updates",
    "initialisation",
    "interpolation",
    "link",
    "lottery",
    "mask_updates",
    "methods",
    "network_map",
    "noise",
    "noise_fisher",
    "periods",
    "policies",
    "procedure",
    "regimes",
    "scatter",
    "schedules",
    "seeds",
    "settings",
    "signal",
    "spectrum",
]
