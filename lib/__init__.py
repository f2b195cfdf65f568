"""A laboratory for one question: what does sparsity cost a neural network, and why?

This is the instrument; it knows nothing of papers. Its rooms, from the notebook's side to the
machine's:

``runs``      finished runs: carried out, kept, tabulated, measured
``training``  cohorts of networks in lock-step
``specs``     what a run is: frozen, checked, hashed
``masks``     which weights live
``data``      image sets and batches
``metrics``   estimators
``sparse``    passes at the cost of the live weights
``models``    architectures, their fresh weights, their cost

``network``, ``dataset``, ``criterion`` and so on register what is your own. Names load when they
are first used, so that ``import lib`` costs nothing.
"""

import importlib
import pkgutil

__version__ = "0.1.0"

_HOMES = {
    "Run": "specs.run", "finetune": "specs.run", "scratch": "specs.run", "ticket": "specs.run",
    "continued": "specs.run", "gradually_pruned": "specs.run",
    "Setup": "specs.parts", "MaskUpdate": "specs.parts",
    "carry_out": "runs.sweep", "measure": "runs.evaluate",
    "network": "registry", "initializer": "registry", "dataset": "registry",
    "criterion": "registry", "mask_update": "registry", "monitor": "registry",
    "selection": "registry", "objective": "registry",
    "fisher_penalty": "specs.arms", "Objective": "specs.arms", "Selection": "specs.arms",
}  # fmt: skip

__all__ = sorted([*_HOMES, *(room.name for room in pkgutil.iter_modules(__path__))])


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'lib' has no attribute {name!r}")
    home = importlib.import_module(f"lib.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home


def __dir__() -> list[str]:
    return __all__
