"""Carrying runs out: what is missing is trained, once, and the table says what was asked for."""

import math
import re
import time

import pandas as pd
import pytest
import torch
from support import carry_out, family, same_table, small

from lib.data import sets
from lib.runs import results, sweep
from lib.runs.store import Store
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, finetune, scratch


def test_the_table(store):
    """A row per run and measured epoch, in the order asked for, with what identifies the run
    and what was measured.
    """
    runs = family(small(noise=0.2, measure_every=2, epochs=3, sparse_epochs=4), 0.5)
    table = carry_out(runs, store)
    assert table["key"].drop_duplicates().tolist() == [run.key for run in runs]
    epochs = table.groupby("key", sort=False)["epoch"].apply(list).tolist()
    assert epochs == [[0, 2, 3]] * 2 + [[0, 2, 4]] * 4
    first, last = table.iloc[0], table.iloc[-1]
    expected = {
        "solution": "sol_d",
        "sparsity": 0.0,
        "seed": 0,
        "dataset": "digits",
        "network": "mlp",
        "noise": 0.2,
        "epochs": 3,
    }
    assert {k: first[k] for k in expected} == expected
    assert (first["density"], first["pruned"], first["diverged"]) == (1.0, 0, False)
    expected = {
        "solution": "sol_s",
        "sparsity": 0.5,
        "seed": 1,
        "epochs": 4,
        "prunable": 1024,
        "pruned": 512,
        "density": 0.5,
    }
    assert {k: last[k] for k in expected} == expected
    measures = [
        f"{part}_{m}" for part in ("train", "test") for m in ("loss", "accuracy", "entropy")
    ]
    measures += [
        "clean_loss",
        "clean_accuracy",
        "flipped_loss",
        "flipped_correct",
        "flipped_memorised",
    ]
    assert table[measures].notna().all().all()
    assert table.groupby(["seed", "solution"])["mask"].nunique().eq(1).all()
    sparse = table[table["solution"] != "sol_d"]
    assert (
        sparse.groupby("seed")["mask"].nunique().eq(1).all()
    )  # Sol-F and Sol-S of a seed share one mask


def test_learning_happens(store):
    """With enough epochs the small networks do learn: the other tests are not about noise."""
    last = results.final(carry_out(family(small(epochs=15, sparse_epochs=15), 0.3), store))
    assert last["train_accuracy"].min() > 0.95
    assert last["test_accuracy"].min() > 0.7


def test_each_run_is_trained_once(store, trained):
    """A second call trains nothing; a longer list only what is new; parents come along;
    duplicates count once.
    """
    setup = small()
    dense = [Run.dense(setup, seed=seed) for seed in (0, 1)]
    sparse = [finetune(d, sparsity=0.5) for d in dense]
    table = carry_out([*sparse, sparse[0]], store)
    assert trained == [[d.key for d in dense], [s.key for s in sparse]]
    assert table["key"].nunique() == 2
    assert not table.duplicated(["key", "epoch"]).any()
    trained.clear()
    same_table(carry_out(sparse, store), table)
    assert trained == []
    more = scratch(dense[1], sparsity=0.5)
    carry_out([*dense, *sparse, more], store)
    assert trained == [[more.key]]


def test_a_solution_under_two_setups_is_one_run(store, trained):
    """Two sparse recipes on one Sol-D: it is trained once and stands in the table once."""
    dense = [Run.dense(small(sparse_lr=lr), seed=0) for lr in (0.1, 0.01)]
    sparse = [finetune(d, sparsity=0.5) for d in dense]
    assert dense[0].key == dense[1].key
    assert sparse[0].key != sparse[1].key
    table = carry_out([*dense, *sparse], store)
    assert sum(cohort.count(dense[0].key) for cohort in trained) == 1
    assert not table.duplicated(["key", "epoch"]).any()


def test_large_lists_are_split(store, trained, monkeypatch):
    """No cohort is larger than the limit, and the result is that of one cohort."""
    runs = [Run.dense(small(epochs=1), seed=seed) for seed in range(5)]
    whole = carry_out(runs, Store(store.root / "whole"))
    trained.clear()
    monkeypatch.setattr(sweep, "MAX_MEMBERS", 2)
    same_table(carry_out(runs, store), whole)
    assert [len(cohort) for cohort in trained] == [2, 2, 1]


def test_runs_that_cannot_share_a_cohort(store, trained):
    """Other data, networks, batch sizes or momenta train in cohorts of their own, in one call."""
    changes = [
        {},
        {"widths": [8]},
        {"batch_size": 16},
        {"momentum": 0.5},
        {"train_examples": 50},
        {"lr": 0.05},
    ]
    runs = [Run.dense(small(epochs=1, **change), seed=0) for change in changes]
    table = carry_out(runs, store)
    assert table["key"].nunique() == len(changes)
    assert sorted(map(len, trained)) == [1, 1, 1, 1, 2]  # another rate may share


def test_final_rows():
    """One row per run: its last epoch, and beside it the best test epoch, the first of equals,
    with its own measures.
    """
    rows = [
        {
            "key": key,
            "solution": solution,
            "sparsity": 0.0,
            "seed": 0,
            "epoch": epoch,
            "test_accuracy": accuracy,
            "train_loss": loss,
        }
        for key, solution, series in (
            ("a", "sol_s", [(0, 0.1, 2.0), (1, 0.9, 1.0), (2, 0.9, 0.5), (3, 0.8, 0.2)]),
            ("b", "sol_d", [(0, 0.3, 2.0), (2, 0.2, 1.0)]),
        )
        for epoch, accuracy, loss in series
    ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    last = results.final(table)
    assert last["key"].tolist() == ["b", "a"]
    assert last["epoch"].tolist() == [2, 3]
    assert last["test_accuracy"].tolist() == [0.2, 0.8]
    assert last["train_loss"].tolist() == [1.0, 0.2]
    assert last["best_epoch"].tolist() == [0, 1]
    assert last["best_test_accuracy"].tolist() == [0.3, 0.9]
    assert last["best_train_loss"].tolist() == [2.0, 1.0]


def test_devices():
    """auto takes what there is; one that is not there, or no place for training, is refused."""
    assert sweep.choose_device("cpu").type == "cpu"
    assert sweep.choose_device("auto").type in ("cpu", "cuda")
    assert sweep.choose_device(torch.device("cpu")) == torch.device("cpu")
    for device in ("gpu", "cuda:99", "meta", "hpu", "mps", ["cpu"], None):
        with pytest.raises(ValueError, match=rf"device is {re.escape(repr(device))}.*auto, cpu"):
            sweep.choose_device(device)


def test_a_huge_update_interval_is_refused_at_once(store, trained):
    """Whether an update would ever come needs no look at every step."""
    dense = Run.dense(small(), seed=0)
    update = MaskUpdate(method="set", every=10**9, end=5, fraction=0.3)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"update frequency is 1000000000 .* no update would come"):
        carry_out([scratch(dense, sparsity=0.5, mask_update=update)], store)
    assert time.perf_counter() - begin < 20
    assert trained == []


def test_data_that_changed_is_refused(store, trained):
    """Runs specified on other data than are there are not trained."""
    setup = small()
    other = setup.model_copy(
        update={"data": setup.data.model_copy(update={"fingerprint": "0" * 32})}
    )
    with pytest.raises(sets.DataError, match=r"fingerprint .* build their setup again"):
        carry_out([Run.dense(other, seed=0)], store)
    assert trained == []


def test_a_network_that_does_not_fit_is_refused_before_training(store, trained):
    """LeNet-5 on 8x8 digits: the error names the network and what it needs, though another run
    could be trained.
    """
    with pytest.raises(ValueError, match=r"'lenet-5' needs images .* of at least 16x16"):
        carry_out([Run.dense(small(), seed=0), Run.dense(small(network="lenet-5"), seed=0)], store)
    assert trained == []


def test_a_missing_run_is_named(store):
    """Tabulating what was not carried out names the run and the store."""
    run = Run.dense(small(), seed=0)
    with pytest.raises(KeyError, match=rf"{run.key} is not in the store .*runs"):
        results.tabulate([run], store)


def test_the_cost_is_told_before(store):
    """Networks by solution with their parents, those still missing, and the images that they
    would see.
    """
    runs = family(small(epochs=3, sparse_epochs=5), seeds=(0, 1))
    before = results.cost(runs[2:], store)
    columns = ["networks", "to train", "image passes to go"]
    assert before[columns].T.to_dict("list") == {
        "sol_d": [2, 2, 900],
        "sol_f": [2, 2, 1500],
        "sol_s": [2, 2, 1500],
    }
    carry_out(runs[:3], store)
    after = results.cost(runs, store)
    assert after[columns].T.to_dict("list") == {
        "sol_d": [2, 0, 0],
        "sol_f": [2, 1, 750],
        "sol_s": [2, 2, 1500],
    }
    whole = Run.dense(small(train_examples=None, epochs=1), seed=0)
    assert (
        results.cost([whole], store)["image passes to go"].tolist()
        == [sets.size("digits")]
        == [1000]
    )


def test_nesting_is_checked(store):
    """True for masks of one criterion, and false where one mask has a weight that a sparser one
    lacks.
    """
    dense = Run.dense(small(epochs=0, sparse_epochs=0), seed=0)
    runs = [start(dense, sparsity=s) for s in (0.9, 0.2, 0.5) for start in (finetune, scratch)]
    carry_out(runs, store)
    assert results.nested(runs, store)
    other = finetune(
        Run.dense(small(epochs=0, sparse_epochs=0, criterion="random"), seed=0), sparsity=0.6
    )
    carry_out([other], store)
    assert not results.nested([*runs, other], store)


def test_an_empty_list_is_an_empty_table(store):
    """No runs, no rows, no error."""
    assert len(carry_out([], store)) == 0


def test_the_closing_line_counts_layer_by_layer(store, capsys):
    """Where each layer is pruned by itself, the sum of the rounded counts is what was asked
    for, and not the rounded sum.
    """
    dense = Run.dense(small(scope="layer", widths=[19, 7]), seed=0)
    run = finetune(dense, sparsity=0.83)
    table = sweep.carry_out([run], store=store, device="cpu", progress=True)
    last = results.final(table).iloc[0]
    assert last["pruned"] != round(0.83 * last["prunable"]), (
        "choose a network in which the two counts differ"
    )
    assert "densities exact: True" in capsys.readouterr().out.splitlines()[-1]


def test_the_closing_line_of_children_of_diverged_runs(store, capsys):
    """They were never trained nor measured: nothing of theirs is inexact."""
    dense = [Run.dense(small(lr=1e20), seed=seed) for seed in (0, 1)]
    children = [finetune(d, sparsity=0.5) for d in dense]
    table = sweep.carry_out(children, store=store, device="cpu", progress=True)
    assert table["diverged"].all()
    assert results.final(table)["best_epoch"].tolist() == [0, 0]
    said = capsys.readouterr().out.splitlines()[-1]
    assert "2 diverged; lowest final training accuracy nan; densities exact: True" in said


def test_the_closing_line(store, capsys):
    """It counts the runs, the trained ones and the diverged ones, and says whether densities
    are exact.
    """
    runs = [Run.dense(small(lr=lr), seed=0) for lr in (0.1, 1e20)]
    carry_out(runs[:1], store)
    table = sweep.carry_out(runs, store=store, device="cpu", progress=True)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("2 runs, 1 networks trained")
    assert "1 diverged" in said
    assert "densities exact: True" in said
    assert not math.isfinite(table["train_loss"].iloc[-1])
