"""A laboratory for one question: what does sparsity cost a neural network, and why?

The modules, from the notebook's side to the machine's:

``plots`` ``claims`` ``notebook``   what a figure notebook shows and concludes
``measurements``                    estimators over finished runs, kept and tabulated
``sweep`` ``tables`` ``store``      carry a list of runs out; tabulate and keep what is finished
``training`` ``cohort`` ``starts``  train K networks of one architecture in lock-step
``workers`` ``flops``               with how many threads, and at what cost
``runs`` ``specs`` ``presets``      what is to be trained, frozen and hashed
``criteria`` ``masks`` ``init``     which weights live, and where they start
``topology`` ``updates``            masks that change while training
``signals`` ``peaks``               what tells while training when to prune, and a rule that listens
``networks`` ``data`` ``metrics``   architectures, image sets, estimators
``folders`` ``feeds``               image sets too large for memory, and batches for training
``draws``                           every random number, by seed and name

Submodules load when they are first used, so that ``import lib`` costs nothing beside ``import torch``.
"""

import importlib

__version__ = "0.1.0"

_MODULES = {
    "claims", "cohort", "criteria", "data", "draws", "feeds", "flops", "folders", "init", "masks", "measurements", "metrics",
    "networks", "notebook", "peaks", "plots", "presets", "runs", "signals", "specs", "starts", "store", "sweep", "tables", "topology",
    "training", "updates", "workers",
}  # fmt: skip
_HOMES = {
    "Run": "runs", "Setup": "runs", "Topology": "runs", "continued": "runs", "finetune": "runs",
    "gradually_pruned": "runs", "scratch": "runs", "ticket": "runs",
    "carry_out": "sweep", "measure": "measurements",
}  # fmt: skip

__all__ = sorted(_MODULES | set(_HOMES))


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"lib.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"lib.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lib' has no attribute {name!r}")


def __dir__():
    return __all__
