"""The gradient-flow study: names and looks of its methods, one palette for all its figures.

What is a Sol-D, Sol-F or Sol-S looks as it does in the other studies: the dense baseline, the prune
restart and scratch.
"""

from typing import Any

from studies.figures import COLOURS, MARKERS

METHODS = {  # row of the table -> (name, colour, line, marker)
    "scratch": ("scratch", COLOURS["sol_s"], "-", MARKERS["sol_s"]),
    "set": ("SET", "#56b4e9", "-", "s"),
    "rigl": ("RigL", "#009e73", "-", "P"),
    "rigl-inverted": ("RigL inverted", "#cc79a7", "-", "v"),
    "small dense": ("small dense", "black", "--", "h"),
    "lottery": ("lottery ticket", "#b8860b", "-", "*"),
    "restart": ("prune restart", COLOURS["sol_f"], "-", MARKERS["sol_f"]),
    "pruned": ("pruned while training", "#8c564b", "-", "X"),
    "baseline": ("dense baseline", COLOURS["sol_d"], "-", MARKERS["sol_d"]),
}
FORM_NAMES: dict[Any, str] = {  # of fresh weights; small dense and the like have no form
    "masked": "original (masked dense)",
    "layer": "Liu et al. (per layer)",
    "neuron": "the study's (per neuron)",
    "": "",
}
FORM_LOOKS: dict[Any, tuple[str, str, str]] = {  # form -> (colour, marker, how a marker is filled)
    "masked": ("#d55e00", "o", "none"),
    "layer": ("#009e73", "s", "bottom"),
    "neuron": ("#0072b2", "^", "full"),
    "": ("#4d4d4d", "D", "full"),
}
ROWS = {  # networks of Figure 5 and Table 2, as METHODS, in the order in which they are shown
    "lottery": METHODS["lottery"],
    "restart": METHODS["restart"],
    "signs": ("ticket, signs alone", "#6a51a3", "-", "<"),
    "noise": ("ticket with noise", "#cc79a7", "-", ">"),
    "shuffled": ("ticket, shuffled", "#882255", "-", "d"),
    "scratch": METHODS["scratch"],
    "scratch_diff_init": ("scratch (diff. init.)", "#f0965a", "-", "p"),
    "pruned": ("pruned independently", *METHODS["pruned"][1:]),
}
