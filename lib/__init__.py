"""A laboratory for one question: what does sparsity cost a neural network, and why?

This is the instrument; it knows nothing of papers. The rooms, from the notebook's side to the machine's:

``runs``      finished runs: carried out, kept, tabulated, measured
``training``  cohorts of networks in lock-step
``specs``     what a run is: frozen, checked, hashed
``masks``     which weights live
``data``      image sets and batches
``metrics``   estimators
``sparse``    passes at the cost of the live weights
``models``    architectures, their fresh weights, their cost

Names load when they are first used, so that ``import lib`` costs nothing beside ``import torch``.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Run": "specs.run", "Setup": "specs.parts", "MaskUpdate": "specs.parts", "continued": "specs.run",
    "finetune": "specs.run", "gradually_pruned": "specs.run", "scratch": "specs.run",
    "ticket": "specs.run", "carry_out": "runs.sweep", "measure": "runs.evaluate",
}  # fmt: skip
_ROOMS = {
    "data",
    "masks",
    "metrics",
    "models",
    "runs",
    "sparse",
    "specs",
    "training",
    "files",
    "rng",
}

__all__ = sorted(_ROOMS | set(_HOMES))


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"lib.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"lib.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lib' has no attribute {name!r}")


def __dir__():
    return __all__
