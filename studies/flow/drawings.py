"""The gradient-flow study: names and looks of its methods."""

from typing import Any

METHODS = {  # row of the table -> (name, colour, line, marker)
    "scratch": ("scratch", "#d55e00", "-", "o"),
    "set": ("SET", "#009e73", "-", "s"),
    "rigl": ("RigL", "#0072b2", "-", "^"),
    "rigl-inverted": ("RigL inverted", "#cc79a7", "-", "v"),
    "small dense": ("small dense", "black", "--", "D"),
    "lottery": ("lottery ticket", "#b8860b", "-", "*"),
    "restart": ("prune restart", "#56b4e9", "-", "P"),
    "pruned": ("pruned while training", "#8c564b", "-", "X"),
    "baseline": ("dense baseline", "#7f7f7f", "-", "h"),
}
FORM_NAMES: dict[Any, str] = {  # of fresh weights; small dense and the like have no form
    "masked": "original (masked dense)",
    "layer": "Liu et al. (per layer)",
    "neuron": "the study's (per neuron)",
    "": "",
}
FORM_COLOURS: dict[Any, str] = {
    "masked": "#d55e00",
    "layer": "#009e73",
    "neuron": "#0072b2",
    "": "#4d4d4d",
}
ROWS = {  # networks of Figure 5 and Table 2 -> (colour, name), in the order in which they are shown
    "lottery": ("#0072b2", "lottery ticket"),
    "restart": ("#009e73", "prune restart"),
    "signs": ("#56b4e9", "ticket, signs alone"),
    "noise": ("#cc79a7", "ticket with noise"),
    "shuffled": ("#882255", "ticket, shuffled"),
    "scratch": ("#d55e00", "scratch"),
    "scratch_diff_init": ("#e69f00", "scratch (diff. init.)"),
    "pruned": ("#4d4d4d", "pruned independently"),
}
