"""Signals watched during training: the numbers that they claim to be, at every epoch, and without a
trace in the training itself."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax
from support import (
    carry_out,
    images_of,
    network_at,
    outcomes,
    same_in_all,
    same_table,
    same_tensors,
    small,
)

from lib import rng
from lib.metrics import fisher, predictions
from lib.registry import monitor
from lib.specs.run import Run, continued, finetune
from lib.training import monitors
from lib.training.cohort import network_of
from studies.presets import settings

BOTH = ["fisher", "kl_uniform"]
RESNET = {"network": "resnet-20", "width": 0.25, "train_examples": 40}


def with_statistics_of(network, x):
    """Give BatchNorm the mean and variance of ``x`` in one batch, as a training step of momentum 1
    would."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        network(x)
    for norm in norms:
        norm.eval()


@pytest.mark.parametrize(
    "options", [{}, {"noise": 0.3, "normalise": "channel", "watch_examples": 70}, RESNET], ids=str
)
def test_signals_are_what_they_claim(options, store, one_thread):
    """At every epoch: the trace of lib.metrics on the kept weights, near the exact one, and
    KL(uniform || p) as numpy has it.

    Before training, with BatchNorm's statistics of the watched examples: the fresh ones are those
    of no data.
    """
    run = Run.dense(small(watch=BOTH, lr=0.05, **options), seed=4, keep=(0, 1, 2, 3))
    table, tensors = carry_out([run], store), store.get(run.key).tensors
    x = images_of(run).x_train[: options.get("watch_examples")]
    for _, row in table.iterrows():
        network, epoch = network_at(run, tensors, f"@{row['epoch']}"), row["epoch"]
        if not epoch:
            with_statistics_of(network, x)
        ours = fisher.trace(network, x, generator=rng.generator(4, "signal", "fisher", epoch))
        assert (row["fisher"], row["fisher_error"]) == pytest.approx(
            (ours.value, ours.error), rel=1e-5
        )
        exact = fisher.exact(network, x).double().mean().item()
        assert abs(row["fisher"] - exact) < 4 * row["fisher_error"]
        assert 0 < row["fisher_error"] < row["fisher"]
        with torch.no_grad():
            log_p = log_softmax(network(x).double().numpy(), 1)
        assert row["kl_uniform"] == pytest.approx(
            np.mean(np.sum(0.1 * (math.log(0.1) - log_p), 1)), rel=1e-5
        )
    assert table["fisher"].nunique() == 4


def test_chunks_do_not_matter(monkeypatch):
    """More examples than fit into one chunk: the mean is over all of them."""
    run = Run.dense(small(), seed=0)
    x = images_of(run).x_train
    network = network_of(run, images_of(run)).to_empty(device="cpu").eval()
    for number, p in enumerate(network.parameters()):
        torch.nn.init.normal_(p, 0, 0.3, generator=rng.generator(number))
    found = []
    for chunk in (500, 150, 40, 1):
        monkeypatch.setattr(predictions, "CHUNK", chunk)
        found.append(monitors.kl_uniform(network, x, rng.generator(0))["kl_uniform"])
    assert found[1:] == pytest.approx([found[0]] * 3, rel=1e-5)


def test_kl_uniform_by_hand():
    """KL((1/3, 1/3, 1/3) || (1/2, 1/4, 1/4)) = log(32 / 27) / 3; 0 for a uniform prediction; a sure
    one of odds e^z has 2/3 z - log 3."""
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    assert predictions.kl_uniform(logits).item() == pytest.approx(math.log(32 / 27) / 3)
    assert predictions.kl_uniform(logits + 7).item() == pytest.approx(math.log(32 / 27) / 3)
    assert predictions.kl_uniform(torch.full((1, 3), -4.0)).item() == pytest.approx(0, abs=1e-6)
    assert predictions.kl_uniform(torch.tensor([[600.0, 0.0, 0.0]])).item() == pytest.approx(
        400 - math.log(3)
    )


@pytest.mark.parametrize(
    "options", [{"noise": 0.2}, {**RESNET, "augment": True}], ids=["mlp", "resnet"]
)
def test_watching_changes_nothing_but_the_key(options, store, one_thread):
    """The weights, statistics and measures of a watched run, and of what is pruned of it, are those
    of one that is not, to the bit."""
    found = []
    for watch in ([], BOTH):
        dense = Run.dense(small(watch=watch, watch_examples=30, **options), seed=0, keep=(1,))
        runs = [dense, continued(dense, at=1, sparsity=0.5), finetune(dense, sparsity=0.5)]
        table = carry_out(runs, store)
        found.append(
            (
                runs,
                table.drop(
                    columns=["key", "fisher", "fisher_error", "kl_uniform"], errors="ignore"
                ),
            )
        )
    (plain, table), (watched, other) = found
    same_table(table, other)
    for run, twin in zip(plain, watched, strict=True):
        assert run.key != twin.key
        same_tensors(store.get(run.key).tensors, store.get(twin.key).tensors)
    assert (
        len(
            {
                Run.dense(small(watch=watch), seed=0).key
                for watch in ([], ["fisher"], ["kl_uniform"], BOTH)
            }
        )
        == 4
    )


def test_how_many_are_watched_counts_only_where_any_are():
    """A number of watched examples is no other run as long as nothing is watched."""
    assert Run.dense(small(watch_examples=30), seed=0).key == Run.dense(small(), seed=0).key
    assert (
        Run.dense(small(watch=BOTH, watch_examples=30), seed=0).key
        != Run.dense(small(watch=BOTH), seed=0).key
    )


def test_there_at_every_epoch(store):
    """From 0 to T even where measures are rarer; a measure is there only when it was due; pruned
    runs are not watched."""
    dense = Run.dense(small(watch=BOTH, epochs=5, measure_every=3), seed=0, keep=(2,))
    table = carry_out([dense, continued(dense, at=2, sparsity=0.5)], store)
    watched = table[table["key"] == dense.key].set_index("epoch")
    assert watched.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert watched[["fisher", "fisher_error", "kl_uniform"]].notna().all(axis=None)
    assert watched.index[watched["test_accuracy"].notna()].tolist() == [0, 3, 5]
    pruned = table[table["solution"] == "sol_p"]
    assert pruned["epoch"].tolist() == [5]
    assert pruned[["fisher", "kl_uniform"]].isna().all(axis=None)


def test_the_best_epoch_is_chosen_among_the_measured(tmp_path):
    """A row of signals alone is no candidate for the best weights."""
    options = {"prune_from": "best-test", "epochs": 6, "lr": 0.4, "measure_every": 4}
    plain, watched = (
        outcomes([Run.dense(small(watch=watch, **options), seed=1)], tmp_path / str(len(watch)))[
            0
        ].tensors
        for watch in ([], BOTH)
    )
    same_tensors(plain, watched)


def test_seconds_are_counted(store):
    """Each signal's own seconds stand in the finished run, for the price of watching; without
    signals there are none."""
    runs = [Run.dense(small(watch=watch), seed=0) for watch in (BOTH, ["kl_uniform"], [])]
    carry_out(runs, store)
    spent = [store.get(run.key).info.get("monitor_seconds") for run in runs]
    assert (set(spent[0]), set(spent[1]), spent[2]) == (set(BOTH), {"kl_uniform"}, None)
    assert all(0 < seconds < 60 for found in spent[:2] for seconds in found.values())


def test_a_member_is_watched_alone(tmp_path):
    """Signals do not depend on who trains, or is watched, beside it; two seeds draw their labels
    apart."""
    run, *others = (Run.dense(small(watch=BOTH), seed=seed) for seed in range(3))
    same_in_all(
        run,
        [others, [Run.dense(small(watch=watch), seed=5) for watch in ([], ["kl_uniform"])]],
        tmp_path,
    )


@pytest.mark.parametrize("measure_every", [1, 5])
@pytest.mark.parametrize(("lr", "batch_size"), [(1e20, 32), (1e38, 150)])
def test_a_diverging_run_can_be_watched(lr, batch_size, measure_every, tmp_path):
    """Weights that are not finite, or whose logits overflow, stop no cohort: the run is marked, the
    calm one's rows are its own."""
    options = {"watch": BOTH, "batch_size": batch_size, "measure_every": measure_every, "epochs": 4}
    calm, wild = (Run.dense(small(**{**options, "lr": rate}), seed=0) for rate in (0.1, lr))
    alone, beside = (
        outcomes(runs, tmp_path / str(len(runs)))[0] for runs in ([calm], [calm, wild])
    )
    same_tensors(alone.tensors, beside.tensors)
    same_table(pd.DataFrame(alone.history), pd.DataFrame(beside.history))
    found = outcomes([wild], tmp_path / "2")[0]
    assert found.info["diverged"] is not None
    assert math.isfinite(found.history[0]["fisher"])
    assert not math.isfinite(found.history[-1].get("fisher", math.nan))
    assert found.history[-1]["epoch"] == found.info["diverged"] < 4


def test_the_trace_of_overflowing_logits_is_no_number():
    """Finite weights whose products overflow: the estimate says so instead of failing."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    torch.nn.init.constant_(network[1].weight, 3e38)
    estimate = fisher.trace(network, torch.ones(5, 4), generator=rng.generator(0))
    assert math.isnan(estimate.value)


def test_a_signal_of_ones_own(store):
    """One decorated function: it can be named, sees the first examples and its own draws, and its
    columns reach the table."""
    seen = []

    @monitor(version="1")
    def brightness(network, x, generator):
        seen.append((network.training, len(x), torch.rand(1, generator=generator).item()))
        return {"light": x.mean().item(), "weight": network[1].weight.norm().item()}

    assert settings("early_fig1_periods", watch=["brightness"]).watch == ("brightness",)
    run = Run.dense(small(watch=["brightness"], watch_examples=20), seed=0, keep=(0, 1, 2, 3))
    table = carry_out([run], store)
    tensors = store.get(run.key).tensors
    assert table["light"].tolist() == [images_of(run).x_train[:20].mean().item()] * 4
    norms = [network_at(run, tensors, f"@{epoch}")[1].weight.norm().item() for epoch in range(4)]
    assert table["weight"].tolist() == pytest.approx(norms)
    assert [(training, count) for training, count, _ in seen] == [(False, 20)] * 4
    assert len({drawn for *_, drawn in seen}) == 4
    monitor.forget("brightness")
