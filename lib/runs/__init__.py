"""Finished runs: carried out, kept, tabulated, measured.

>>> import tempfile
>>> from lib import Run, Setup, carry_out, finetune, measure
>>> from lib.data import sets
>>> from lib.runs.store import Store
>>> few = {"name": "digits", "train": 100, "test": 50}
>>> data = {**few, "fingerprint": sets.load("digits", train=100, test=50).fingerprint}
>>> recipe = {"epochs": 1, "batch_size": 50, "lr": 0.1}
>>> network, pruning = {"name": "mlp", "widths": (8,)}, {"sparsity": 0.5}
>>> setup = Setup(data=data, network=network, dense=recipe, sparse=recipe, pruning=pruning)
>>> dense = Run.dense(setup, seed=0)
>>> runs, store = [dense, finetune(dense, sparsity=0.5)], Store(tempfile.mkdtemp())
>>> table = carry_out(runs, store=store, progress=False)
>>> table[["solution", "epoch", "density"]].to_numpy().tolist()
[['sol_d', 0, 1.0], ['sol_d', 1, 1.0], ['sol_f', 0, 0.5], ['sol_f', 1, 0.5]]
>>> def live(network, mask, run, images):
...     return {"live": sum(int(layer.sum()) for layer in mask.values())}
>>> measure(runs, "live weights", live, store=store, progress=False)["live"].tolist()
[610, 354]
"""
