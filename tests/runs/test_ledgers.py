"""What training cost, counted from layers: steps, the sparse phase, everything."""

import pytest
from support import carry_out, images_of, layout_of, small

from lib import fisher_penalty
from lib.runs.ledgers import ledgers
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, finetune, gradually_pruned, scratch

STEPS, EXAMPLES = 15, 450  # three epochs of 150 examples in batches of 32


def live_kernels(run, store):
    """Live weights of the kernels of an MLP, which are used once an example."""
    views = layout_of(run).views(store.get(run.key).tensors["mask"])
    return sum(int(m.sum()) for n, m in views.items() if m.dim() > 1)


def test_by_hand(store):
    """Three passes an example, of two operations for each live weight; and what an arm adds."""
    dense = Run.dense(small(), seed=0)
    guide = Run.dense(small(train_examples=20, widths=[4]), seed=0)
    chosen = {"pool": 3, "holdout": 20}
    runs = [
        dense,
        finetune(dense, sparsity=0.8),
        scratch(dense, sparsity=0.8, selection={"name": "top_fisher", "pool": 3}),
        scratch(dense, sparsity=0.8, objective={"name": "sam", "weight": 0.05}),
        scratch(dense, sparsity=0.8, objective=fisher_penalty(0.01, until=0.4)),
        scratch(dense, sparsity=0.8, guide=guide, selection={"name": "reducible_fisher", **chosen}),
    ]
    carry_out(runs, store)
    found = ledgers(runs, store)
    assert list(found["steps"]) == [STEPS] * len(runs)
    first, last = 64 * 16, 16 * 10
    whole, live = 2.0 * (first + last), 2.0 * (round(0.2 * first) + last)
    assert [2.0 * live_kernels(run, store) for run in runs[:2]] == [whole, live]
    small_one = 2.0 * (64 * 4 + 4 * 10)
    scored, beyond = STEPS * 96 * 2, 9 * (150 + 32)  # 6 of 15 steps
    sparse = [
        3 * EXAMPLES * whole,
        3 * EXAMPLES * live,
        (3 * EXAMPLES + scored) * live,
        6 * EXAMPLES * live,
        (3 * EXAMPLES + beyond) * live,
        (3 * EXAMPLES + scored) * live + 2 * 150 * small_one,
    ]
    assert list(found["sparse_flops"]) == pytest.approx(sparse)
    total = [sparse[0], *(own + sparse[0] for own in sparse[1:])]
    total[-1] += 3 * 60 * small_one
    assert list(found["total_flops"]) == pytest.approx(total)


def test_gradual_pruning_lies_between(store):
    """Its passes cost between those of the dense network and those of its end."""
    setup = small()
    update = MaskUpdate(method="gradual", every=1, start=0, end=10)
    run = gradually_pruned(setup, seed=0, sparsity=0.8, mask_update=update)
    dense = Run.dense(setup, seed=0)
    carry_out([run, dense, finetune(dense, sparsity=0.8)], store)
    pruned, whole, sparse = ledgers([run, dense, finetune(dense, sparsity=0.8)], store)[
        "sparse_flops"
    ]
    shares = [1 - (1 - min(step / 10, 1)) ** 3 for step in range(1, STEPS + 1)]
    mean = sum(shares) / STEPS
    assert pruned == pytest.approx(whole - mean * (whole - sparse))
    assert len(images_of(run).y_train) == 150
