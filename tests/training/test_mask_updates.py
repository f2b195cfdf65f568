"""Masks that change while their networks train: against a loop written out, in any company, after a
death, and where they start."""

import math
from itertools import zip_longest

import numpy as np
import pandas as pd
import pytest
import torch
from support import (
    carry_out,
    images_of,
    kill_at,
    labels_of,
    layout_of,
    outcomes,
    same_in_all,
    same_results,
    same_table,
    same_tensors,
    small,
)

from lib import rng
from lib.data.images import Cropper
from lib.masks import masks
from lib.models import initializers, networks
from lib.registry import mask_update
from lib.runs import results
from lib.runs.store import Store
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, continued, finetune, gradually_pruned, scratch, ticket
from lib.training import mask_updates, threads
from lib.training.cohort import network_of

SPARSITY = 0.8


def plan(method, every=4, end=12, **options):
    """A mask_update; 150 digits in batches of 32 are 5 steps an epoch, so that most updates fall
    between two ends of epochs."""
    return MaskUpdate(
        method=method,
        every=every,
        end=end,
        **({} if method == "gradual" else {"fraction": 0.3}),
        **options,
    )


def pruned(setup, seed=0, sparsity=SPARSITY, keep=(), **options):
    """A gradually pruned run."""
    return gradually_pruned(
        setup, seed=seed, sparsity=sparsity, mask_update=plan("gradual", **options), keep=keep
    )


def moving(parent, *methods, held=40, **options):
    """Runs from scratch whose mask begins as the parent's and changes, for each of the methods;
    "rigl-batch" grows by its batch."""
    found = []
    for name in methods or ("set", "rigl", "rigl-batch", "rigl-inverted", "rigl-inverted-batch"):
        gradient = {"gradient": "batch"} if name.endswith("-batch") else {"held": held}
        mask_update = plan(name.removesuffix("-batch"), **{**gradient, **options})
        found.append(scratch(parent, sparsity=parent.sparsity or SPARSITY, mask_update=mask_update))
    return found


# -- against a loop written out --------------------------------------------------------------------


def rate_by_hand(recipe, position):
    """The learning rate at a position in epochs."""
    return (
        recipe.lr
        * {"constant": 1.0, "cosine": (1 + math.cos(math.pi * position / recipe.epochs)) / 2}[
            recipe.schedule
        ]
    )


def lowest(values, count):
    """The places of the ``count`` lowest, the first among equals; fails where rounding could
    decide."""
    order = np.argsort(values, kind="stable")
    if 0 < count < len(order):
        last, next_one = values[order[count - 1 : count + 1]]
        assert last == next_one == 0 or next_one - last > 5e-5 * max(abs(last), abs(next_one)), (
            "choose a seed that decides more clearly"
        )
    return order[:count]


def pruned_by_hand(run, step, weights, mask):
    """The cubic schedule (Zhu & Gupta 2017, Eq. 1): what is pruned stays so, and the smallest of
    the rest follow it."""
    t = run.mask_update
    sparsity = run.sparsity * (1 - (1 - (step - t.start) / (t.end - t.start)) ** 3)
    sizes = {name: np.where(mask[name], np.abs(weights[name]), -1.0) for name in weights}
    new = {name: np.ones(mask[name].size, dtype=bool) for name in weights}
    if run.pruning.scope == "layer":
        for name, size in sizes.items():
            new[name][lowest(size.ravel(), round(sparsity * size.size))] = False
    else:
        flat = np.concatenate([size.ravel() for size in sizes.values()])
        live = np.ones(len(flat), dtype=bool)
        live[lowest(flat, round(sparsity * len(flat)))] = False
        for name, part in zip(
            new, np.split(live, np.cumsum([size.size for size in sizes.values()])[:-1]), strict=True
        ):
            new[name] = part
    return {name: live.reshape(mask[name].shape) for name, live in new.items()}


def regrown_by_hand(run, step, rate, weights, mask, gradient):
    """In each layer the smallest live weights go, and as many of all that are dead then come, by
    the gradient or at random."""
    t, new = run.mask_update, {}
    fraction = {
        "rate": t.fraction * rate / run.recipe.lr,
        "cosine": t.fraction * (1 + math.cos(math.pi * step / t.end)) / 2,
        "constant": t.fraction,
    }[t.drop]
    stream = rng.generator(run.seed, "sol_s", "grow", step)
    for name, weight in weights.items():
        live = mask[name].ravel().nonzero()[0]
        count = int(fraction * len(live) + 1e-9)
        kept = np.delete(live, lowest(np.abs(weight.ravel()[live]), count))
        dead = np.setdiff1d(np.arange(weight.size), kept)
        if t.method == "set":
            wish = torch.rand(weight.size, generator=stream, dtype=torch.float64).numpy()
        else:
            wish = np.abs(gradient[name].ravel()) * (-1 if t.method == "rigl" else 1)
        grown = dead[lowest(wish[dead], count)]
        new[name] = np.zeros(weight.size, dtype=bool)
        new[name][[*kept, *grown]] = True
    return {name: live.reshape(mask[name].shape) for name, live in new.items()}


def by_hand(run, weights, buffers, mask):
    """(module, mask by name) at the end of ``run``: one network, its gradients by autograd, each
    step and each update written out."""
    images, labels, recipe, t = images_of(run), labels_of(run), run.recipe, run.mask_update
    network = network_of(run, images).to_empty(device="cpu")
    for name, value in {**weights, **buffers}.items():
        network.get_parameter(name).data.copy_(value) if name in weights else network.get_buffer(
            name
        ).copy_(value)
    kernels, own = (
        networks.prunable(network, run.pruning.keep_dense),
        dict(network.named_parameters()),
    )
    crop = Cropper(images.x_train, images.black) if run.data.augment else None
    velocity, mask = (
        {name: torch.zeros_like(p) for name, p in own.items()},
        {name: live.clone() for name, live in mask.items()},
    )
    count, step = len(labels), 0
    batches = math.ceil(count / recipe.batch_size)

    def gradient(x, y):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        return dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))

    for epoch in range(recipe.epochs):
        order = torch.randperm(
            count, generator=rng.generator(run.seed, run.solution, "order", epoch)
        )
        moves = (
            crop.draw(count, rng.generator(run.seed, run.solution, "crop", epoch)) if crop else None
        )
        for number, batch in enumerate(order.split(recipe.batch_size)):
            x = (
                crop(batch, moves[number * recipe.batch_size :][: len(batch)])
                if crop
                else images.x_train[batch]
            )
            if x.dim() == 4:  # as does the layout
                x = x.contiguous(memory_format=torch.channels_last)
            rate = rate_by_hand(recipe, epoch + number / batches)
            network.train()
            found = gradient(x, labels[batch])
            with torch.no_grad():
                for name, p in own.items():
                    shrunk = recipe.weight_decay if recipe.decay == "all" or p.dim() > 1 else 0.0
                    g = found[name] * mask[name] + shrunk * p
                    velocity[name] = recipe.momentum * velocity[name] + g
                    p -= rate * (
                        g + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name]
                    )
            step += 1
            due = t and step >= t.start and step <= t.end and (step - t.start) % t.every == 0
            if not due or (t.method != "gradual" and step == recipe.epochs * batches):
                continue
            network.eval()
            found = (
                gradient(x, labels[batch])
                if t.gradient == "batch"
                else gradient(images.x_train[: t.held], labels[: t.held])
            )
            arrays = [{n: of[n].detach().numpy() for n in kernels} for of in (own, mask, found)]
            new = (
                pruned_by_hand(run, step, *arrays[:2])
                if t.method == "gradual"
                else regrown_by_hand(run, step, rate, *arrays)
            )
            for name, live in new.items():
                both = mask[name] & torch.from_numpy(live)
                own[name].data.mul_(both)
                velocity[name].mul_(both)
                mask[name] = torch.from_numpy(live)
    return network, mask


def start_of(run, parent):
    """(weights, buffers, mask) by name at the start of ``run``, from the tensors of the gradually
    pruned run that it hangs on."""
    layout, images = layout_of(run), images_of(run)
    network = network_of(run, images)
    fresh = layout.views(layout.fresh_buffers(), buffers=True)
    if parent is None:
        return (
            initializers.dense(network, "he", run.seed),
            fresh,
            {n: torch.ones(s, dtype=torch.bool) for n, s in layout.parameters.items()},
        )
    mask = layout.views(parent["mask"])
    return (
        {n: w * mask[n] for n, w in initializers.dense(network, "he", run.seed, "scratch").items()},
        fresh,
        mask,
    )


def assert_as_by_hand(setup, seed, tmp_path, rtol, atol, drop, held=40, **moments):
    parent, other = (pruned(setup, s, **moments) for s in (seed, seed + 1))
    runs = [parent, *moving(parent, drop=drop, held=held, **moments)]
    beside = [
        other,
        *moving(other, "rigl", "set", **moments),
    ]  # these have other batches and labels
    tensors = [done.tensors for done in outcomes([*beside, *runs], tmp_path)[len(beside) :]]
    assert len({t["mask"].numpy().tobytes() for t in tensors}) == len(runs), (
        "what the methods do must differ here"
    )
    for run, found in zip(runs, tensors, strict=True):
        network, mask = by_hand(run, *start_of(run, tensors[0] if run.parent else None))
        layout, said = layout_of(run), f"{run.mask_update.method}, {run.mask_update.gradient}"
        for name, live in layout.views(found["mask"]).items():
            assert torch.equal(live, mask[name]), f"{said}: {name}"
        for name, value in layout.views(found["weights"]).items():
            theirs = network.get_parameter(name).detach()
            torch.testing.assert_close(
                value,
                theirs,
                rtol=rtol,
                atol=atol,
                msg=lambda m, name=name, said=said: f"{said}, {name}: {m}",
            )
        for name, value in layout.views(found["buffers"], buffers=True).items():
            torch.testing.assert_close(value, network.get_buffer(name), rtol=rtol, atol=atol)


RECIPES = [
    (3, "rate", {"schedule": "cosine", "weight_decay": 0.01, "scope": "layer", "widths": [20, 12]}),
    (
        5,
        "cosine",
        {
            "nesterov": True,
            "weight_decay": 0.05,
            "decay": "kernels",
            "noise": 0.3,
            "widths": [16, 10],
        },
    ),
    (
        1,
        "constant",
        {
            "momentum": 0.0,
            "augment": True,
            "normalise": "channel",
            "keep_dense": [],
            "activation": "tanh",
        },
    ),
]


@pytest.mark.parametrize(("seed", "drop", "options"), RECIPES, ids=[drop for _, drop, _ in RECIPES])
def test_mlps_train_as_written_out(seed, drop, options, tmp_path, monkeypatch):
    """Pruned gradually, or changed by SET, RigL and its inverse, each member ends with the mask and
    the weights of a plain loop."""
    monkeypatch.setattr(
        threads, "plan", lambda members, *_: ([2] * (members // 2) + [1] * (members % 2), 1, 1)
    )  # groups of two: one of other batches and labels, then those looked at
    assert_as_by_hand(small(**options), seed, tmp_path, 1e-4, 2e-6, drop)


def test_lenet_5_trains_as_written_out(tmp_path, place_set, one_thread):
    """So does LeNet-5 on images of 28x28 pixels."""
    place_set("mnist", shape=(28, 28), classes=10, train=48, test=16)
    form = {"dataset": "mnist", "network": "lenet-5", "widths": [4, 8, 30, 20]}
    recipe = {
        "train_examples": None,
        "test_examples": None,
        "batch_size": 16,
        "lr": 0.05,
        "weight_decay": 1e-3,
    }
    assert_as_by_hand(
        small(**form, **recipe, scope="layer"), 5, tmp_path, 1e-3, 1e-5, "rate", every=2, end=8
    )


def test_a_resnet_trains_as_written_out(tmp_path, place_set, one_thread):
    """And a ResNet: the gradient by which its weights grow is that of the network as it predicts,
    with running statistics.

    One update and a step behind it: later on a unit that is on in one and off in the other, by
    rounding, sets the two apart.
    """
    place_set()
    form = {
        "dataset": "cifar10",
        "network": "resnet-20",
        "width": 0.25,
        "train_examples": None,
        "test_examples": None,
    }
    recipe = {
        "batch_size": 16,
        "lr": 0.02,
        "epochs": 1,
        "sparse_epochs": 1,
        "weight_decay": 1e-2,
        "decay": "kernels",
    }
    assert_as_by_hand(
        small(**form, **recipe), 0, tmp_path, 1e-3, 1e-5, "constant", every=2, end=2, held=8
    )


# -- what holds after every step -------------------------------------------------------------------


@pytest.fixture
def after_every_update(monkeypatch):
    """What each group held before and after each of its steps' updates: (runs, step, mask before
    and after, what is not 0)."""
    seen, real = [], mask_updates.after

    def watched(group, steps, *arguments):
        rows, before = group.rows, group.rows.mask.clone()
        real(group, steps, *arguments)
        dead = ~rows.mask
        left = rows.weights[dead].count_nonzero() + rows.velocity[dead].count_nonzero()
        runs = [member.run for member in group.members]
        if steps:  # before the first, nothing changes
            seen.append((runs, steps, before, rows.mask.clone(), int(left)))

    monkeypatch.setattr(mask_updates, "after", watched)
    return seen


NETWORKS = {
    "mlp": {"widths": [20, 12]},
    "large mlp": {
        "widths": [300, 200],
        "train_examples": 70,
        "batch_size": 16,
    },  # alone it takes the plain product
    "resnet": {
        "network": "resnet-20",
        "width": 0.25,
        "train_examples": 40,
        "batch_size": 8,
        "lr": 0.02,
        "augment": True,
    },
}


def counts(run, row):
    """How many weights of each prunable layer are pruned in a mask row, and how many the layer
    has."""
    views = layout_of(run).views(row)
    names = networks.prunable(network_of(run, images_of(run)), run.pruning.keep_dense)
    return {name: int((~views[name]).sum()) for name in names}, {
        name: views[name].numel() for name in names
    }


@pytest.mark.parametrize(("network", "nesterov"), [("mlp", False), ("mlp", True), ("resnet", True)])
def test_density_holds_and_pruned_weights_stay_zero(
    network, nesterov, store, after_every_step, after_every_update
):
    """After every step and update: as many live weights in each layer as before, zeros elsewhere;
    and masks change when they are due."""
    parent = pruned(small(**NETWORKS[network], nesterov=nesterov, weight_decay=0.05))
    carry_out([parent], store)
    after_every_step.clear(), after_every_update.clear()
    methods = ("rigl", "set") if network == "resnet" else ()
    runs = moving(parent, *methods, start=3, end=15, every=3, drop="constant")
    carry_out(runs, store)
    assert len(after_every_step) == len(after_every_update) >= 15
    assert all(alive == 0 and dead > 0 for alive, dead in after_every_step)
    assert not any(left for *_, left in after_every_update)
    changes = {run: [] for run in runs}
    for group, step, before, after, _ in after_every_update:
        for run, old, new in zip(group, before, after, strict=True):
            assert counts(run, old) == counts(run, new)
            if not torch.equal(old, new):
                changes[run].append(step)
    assert all(steps == [3, 6, 9, 12] for steps in changes.values())
    for run in runs:
        info, start = store.get(run.key).info, store.get(parent.key)
        assert (info["pruned"], info["density"]) == (start.info["pruned"], start.info["density"])
        assert info["mask"] != start.info["mask"]


@pytest.mark.parametrize("keep_dense", [[], ["last"]])
@pytest.mark.parametrize("scope", masks.SCOPES)
def test_gradual_pruning_is_exact_at_every_update(
    scope, keep_dense, store, after_every_step, after_every_update
):
    """Round(s n) of each layer under the layer scope, round(s N) of all under the others, with s of
    the schedule; nothing comes back."""
    setup = small(widths=[21, 13], scope=scope, keep_dense=keep_dense, weight_decay=0.05)
    runs = [
        pruned(setup, sparsity=s, start=start, end=end)
        for s, start, end in ((0.83, 0, 12), (0.57, 5, 13), (0.0, 3, 15))
    ]
    table = carry_out(runs, store)
    assert not any(alive for alive, _ in after_every_step)
    assert len(after_every_update) == 15
    for group, step, before, after, left in after_every_update:
        assert left == 0
        for run, old, new in zip(group, before, after, strict=True):
            t = run.mask_update
            past = min(t.end, step - (step - t.start) % t.every)  # the last update so far
            goal = run.sparsity * (1 - (1 - max(past - t.start, 0) / (t.end - t.start)) ** 3)
            gone, sizes = counts(run, new)
            if scope == "layer":
                assert gone == {name: round(goal * size) for name, size in sizes.items()}
            else:
                assert sum(gone.values()) == round(goal * sum(sizes.values()))
            assert (old | ~new).all()
    last = results.final(table).set_index("key")
    for run in runs:
        done = store.get(run.key)
        gone, sizes = counts(run, done.tensors["mask"])
        exact = (
            sum(round(run.sparsity * n) for n in sizes.values())
            if scope == "layer"
            else round(run.sparsity * sum(sizes.values()))
        )
        assert sum(gone.values()) == exact == last.loc[run.key, "pruned"]
        assert last.loc[run.key, "prunable"] == sum(sizes.values())
        assert last.loc[run.key, "density"] == pytest.approx(1 - exact / sum(sizes.values()))


# -- companies, threads and deaths -----------------------------------------------------------------


def first_generation(setup, seed):
    """Dense runs and gradually pruned ones of several plans."""
    return [
        Run.dense(setup, seed=seed),
        pruned(setup, seed),
        pruned(setup, seed, sparsity=0.5, every=3, start=1, end=10, keep=(1,)),
    ]


def second_generation(setup, seed):
    """On these: masks that change, masks that stay, and none."""
    dense, gradual, kept = first_generation(setup, seed)
    fixed = [
        scratch(gradual, sparsity=SPARSITY),
        ticket(gradual),
        ticket(kept, rewind=1),
        finetune(gradual, sparsity=SPARSITY),
    ]
    none = [scratch(dense, sparsity=0.0), scratch(gradual, sparsity=SPARSITY, form="neuron")]
    return [
        *moving(gradual),
        *moving(kept, "set", "rigl", start=2, end=9, drop="cosine"),
        *fixed,
        *none,
    ]


@pytest.mark.parametrize("network", NETWORKS)
def test_gradually_pruned_members_do_not_depend_on_their_company(network, tmp_path, one_thread):
    """The same bits and rows alone, beside dense ones and beside those that are pruned at other
    moments."""
    setup = small(**NETWORKS[network], weight_decay=5e-4, noise=0.3)
    others = [*first_generation(setup, 0)[::2], *first_generation(setup, 1)]
    same_in_all(
        pruned(setup), [others[:2]] if network == "resnet" else [others[:1], others], tmp_path
    )


COMPANY = [
    ("mlp", "set"),
    ("mlp", "rigl"),
    ("mlp", "rigl-inverted-batch"),
    ("large mlp", "set"),
    ("large mlp", "rigl"),
    ("resnet", "rigl"),
]


@pytest.mark.parametrize(("network", "method"), COMPANY)
def test_changing_members_do_not_depend_on_their_company(network, method, tmp_path, one_thread):
    """Nor do the others, beside all other methods, static masks and dense ones."""
    setup = small(**NETWORKS[network], weight_decay=5e-4, noise=0.3)
    run = moving(pruned(setup), method)[0]
    others = [other for other in second_generation(setup, 0) if other != run]
    same_in_all(
        run,
        [others[::3]]
        if network == "resnet"
        else [others[-1:], [*others, *second_generation(setup, 1)]],
        tmp_path,
    )


def test_the_number_of_threads_changes_nothing(tmp_path):
    """One thread and four give the same bits, whether groups share them or a lone large member has
    them all."""
    before = torch.get_num_threads()
    setups = [small(**NETWORKS[name]) for name in ("mlp", "large mlp")]
    runs = [
        run
        for setup in setups
        for parent in [pruned(setup)]
        for run in (parent, *moving(parent, "rigl", "set"))
    ]
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(
                [
                    *outcomes(runs, tmp_path / str(threads)),
                    *outcomes([runs[4]], tmp_path / f"{threads}-alone"),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for one, four in zip(*results, strict=True):
        same_tensors(one.tensors, four.tensors)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(runs, table, store) of both generations on noisy labels, that nothing disturbed."""
    setup = small(weight_decay=5e-4, noise=0.3, schedule="cosine")
    runs = [*first_generation(setup, 0), *second_generation(setup, 0)]
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    return runs, carry_out(runs, store), store


# Each generation trains 15 steps in one group and saves a checkpoint before each of 3 epochs and
# after the last; most masks change after 4, 8 and 12 steps. ``after`` is called before them too.
KILLS = [
    ("lib.runs.store.Store.save_checkpoint", 2, True),
    ("lib.runs.store.Store.save_checkpoint", 7, True),
    ("lib.training.steps.sgd_", 15 + 14, False),
    ("lib.training.mask_updates.after", 1 + 12, True),
    ("lib.training.mask_updates.after", 16 + 1 + 8, True),
    ("lib.runs.store.Store.put", 5, True),
]


@pytest.mark.parametrize(
    "kill", KILLS, ids=lambda k: f"{'after' if k[2] else 'before'}-{k[0].split('.')[-1]}-{k[1]}"
)
def test_killed_between_two_updates(kill, undisturbed, store):
    """Killed in the middle of gradual pruning or of changing masks, and carried out again: the same
    table, weights and masks."""
    runs, table, reference = undisturbed
    kill_at(runs, store.root, *kill)
    assert list((store.root / "interrupted").rglob("*.safetensors"))
    same_table(carry_out(runs, store), table)
    same_results(runs, store, reference)


def test_a_resumed_cohort_goes_on_with_its_masks(undisturbed, store):
    """A checkpoint holds masks on their way: neither those of the start nor those of the end, and
    nothing that they have pruned."""
    runs, _, reference = undisturbed
    kill_at(runs, store.root, "lib.runs.store.Store.save_checkpoint", 7, True)
    [path] = (store.root / "interrupted").rglob("*.safetensors")
    tensors, content = store.checkpoint(path.stem)
    assert content["epoch"] == 2
    by_key = {run.key: run for run in runs}
    for k, member in enumerate(content["members"]):
        run, mask = by_key[member["key"]], tensors["mask"][k]
        assert not tensors["weights"][k][~mask].any()
        assert not tensors["velocity"][k][~mask].any()
        start, end = (reference.get(key).tensors["mask"] for key in (run.parent.key, run.key))
        if (
            run.mask_update and run.mask_update.method != "rigl-inverted"
        ):  # that one grows what it drops
            assert not torch.equal(mask, start)
            assert torch.equal(mask, end) == (run.mask_update.end <= 10)


# -- rules of one's own ----------------------------------------------------------------------------


@pytest.fixture
def mine():
    """Registers a rule under the name "mine", as a notebook does."""
    names = set()

    def register(rule):
        names.add("mine")
        mask_update(name="mine", version="1")(rule)

    yield register
    for name in names:
        mask_update.forget(name)


@pytest.mark.parametrize("method", ["set", "rigl", "rigl-inverted"])
def test_a_rule_of_ones_own_is_called_as_the_projects_own(method, mine, tmp_path):
    """The same function under another name gives the same bits, under another key."""
    mine(mask_update[method])
    parent = pruned(small())
    runs = [*moving(parent, method), *moving(parent, "mine")]
    theirs, ours = outcomes(runs, tmp_path)
    assert runs[0].key != runs[1].key
    same_tensors(theirs.tensors, ours.tensors)


def test_a_rule_that_changes_the_density_is_refused_on_its_step(mine, store):
    """And no run of it enters the store."""
    mine(lambda weights, mask, generator, change: {n: live | True for n, live in mask.items()})
    (run,) = moving(pruned(small()), "mine")
    with pytest.raises(ValueError, match="mask_update 'mine' at step 4 leaves 1024 weights alive"):
        carry_out([run], store)
    assert not store.has(run.key)


# -- where they start ------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_starts_on_a_gradually_pruned_mask(network, tmp_path):
    """A ticket has the dense start or a kept epoch's weights, a restart the last ones, and fresh
    weights are those of their form."""
    parent = pruned(
        small(**{**NETWORKS[network], "sparse_epochs": 0, "scope": "layer"}),
        seed=3,
        sparsity=0.95,
        keep=(0, 1, 3),
    )
    runs = [
        ticket(parent),
        ticket(parent, rewind=1),
        ticket(parent, rewind=3),
        finetune(parent, sparsity=0.95),
    ]
    runs += [scratch(parent, sparsity=0.95, form=form) for form in initializers.FORMS]
    g, *found = outcomes([parent, *runs], tmp_path)
    first, rewound, late, restart, *fresh = (done.tensors for done in found)
    layout, mask = layout_of(parent), g.tensors["mask"]
    module = network_of(parent, images_of(parent))
    assert int((~mask).sum()) == g.info["pruned"] > 0.9 * g.info["prunable"]
    assert all(
        torch.equal(done.tensors["mask"], mask) and done.info["mask"] == g.info["mask"]
        for done in found
    )
    assert torch.equal(first["weights"], layout.row(initializers.dense(module, "he", 3)) * mask)
    assert torch.equal(first["weights"], g.tensors["weights@0"] * mask)
    assert torch.equal(rewound["weights"], g.tensors["weights@1"] * mask)
    assert torch.equal(restart["weights"], g.tensors["weights"])
    assert torch.equal(late["weights"], g.tensors["weights"])
    for done, moment in ((first, "@0"), (rewound, "@1"), (late, ""), (restart, "")):
        assert torch.equal(done["buffers"], g.tensors[f"buffers{moment}"])
    kernels = {name: live for name, live in layout.views(mask).items() if live.dim() > 1}
    for form, tensors, done in zip(initializers.FORMS, fresh, found[4:], strict=True):
        weights, idle = initializers.sparse(module, kernels, "he", 3, "scratch", form=form)
        assert torch.equal(tensors["weights"], layout.row(weights))
        assert torch.equal(tensors["buffers"], layout.fresh_buffers())
        assert done.info.get("neurons without input") == (
            None if form == "masked" else sum(map(len, idle.values()))
        )
    assert torch.equal(
        fresh[0]["weights"], layout.row(initializers.dense(module, "he", 3, "scratch")) * mask
    )
    assert (
        len({start["weights"].numpy().tobytes() for start in (first, rewound, restart, *fresh)})
        == 6
    )


def test_changing_masks_begin_as_the_gradually_pruned_one(store, after_every_update):
    """Until the first update it is that mask, on the weights of the form asked for."""
    parent = pruned(small(), seed=2)
    runs = [
        scratch(parent, sparsity=SPARSITY, mask_update=run.mask_update, keep=(0,), form=form)
        for run in moving(parent)
        for form in initializers.FORMS
    ]
    carry_out([parent], store)
    after_every_update.clear()
    carry_out(
        [
            *runs,
            *(
                scratch(parent, sparsity=SPARSITY, keep=(0,), form=form)
                for form in initializers.FORMS
            ),
        ],
        store,
    )
    mask = store.get(parent.key).tensors["mask"]
    seen = {
        run: before
        for group, step, before, *_ in after_every_update
        if step == 4
        for run, before in zip(group, before, strict=True)
    }
    for run in runs:
        assert torch.equal(seen[run], mask)
        fixed = scratch(parent, sparsity=SPARSITY, keep=(0,), form=run.form)
        assert torch.equal(
            store.get(run.key).tensors["weights@0"], store.get(fixed.key).tensors["weights@0"]
        )
        assert not torch.equal(store.get(run.key).tensors["mask"], mask)


def test_pruning_at_the_best_epoch_is_for_others(tmp_path):
    """A gradually pruned network has its mask at its end: what hangs on it starts there also where
    others start from the best epoch."""
    found = []
    for source in ("final", "best-test"):
        parent = pruned(small(prune_from=source, lr=0.4))
        runs = [
            finetune(parent, sparsity=SPARSITY),
            scratch(parent, sparsity=SPARSITY),
            ticket(parent),
            *moving(parent, "rigl"),
        ]
        found.append(outcomes([parent, *runs], tmp_path / source))
    for final, best in zip(*found, strict=True):
        same_tensors(final.tensors, best.tensors)


# -- weight decay ----------------------------------------------------------------------------------


def decaying(setup, **changes):
    """The setup with another sparse recipe."""
    return setup.model_copy(update={"sparse": setup.sparse.model_copy(update=changes)})


@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_decay_of_kernels_spares_the_rest(network, store):
    """In one step from trained weights, biases and BatchNorm go where they go without any decay,
    and kernels where all decay takes them."""
    setup = small(**NETWORKS[network])
    step = {"epochs": 1, "batch_size": 150}
    setups = [
        decaying(setup, **step, weight_decay=w, decay=d)
        for w, d in ((0.1, "kernels"), (0.1, "all"), (0.0, "all"))
    ]
    runs = [finetune(Run.dense(s, seed=0), sparsity=0.5) for s in setups]
    carry_out(runs, store)
    layout = layout_of(runs[0])
    kernels, everything, nothing = (
        layout.views(store.get(run.key).tensors["weights"]) for run in runs
    )
    for name, value in kernels.items():
        expected, other = (everything, nothing) if value.dim() > 1 else (nothing, everything)
        assert torch.equal(value, expected[name]), name
        assert not torch.equal(value, other[name]), name
    assert "decay" in runs[0].specification["recipe"]
    assert "decay" not in runs[1].specification["recipe"]  # the keys of earlier runs stay


DECAYS = ("all", "kernels")


@pytest.mark.parametrize("decay", ["all", "kernels"])
@pytest.mark.parametrize("network", ["mlp", "large mlp"])
def test_decay_is_each_members_own(network, decay, tmp_path, one_thread):
    """The same bits alone, beside another amount of it and beside the other kind."""
    setup = small(**NETWORKS[network], nesterov=True)
    recipes = [{"weight_decay": w, "decay": d} for w in (0.05, 0.01, 0.0) for d in DECAYS]
    dense = [setup.dense.model_copy(update=recipe) for recipe in recipes]
    runs = [Run.dense(setup.model_copy(update={"dense": recipe}), seed=0) for recipe in dense]
    run = runs[decay == "kernels"]
    others = [other for other in runs if other != run]
    same_in_all(run, [[other for other in others if other.recipe.decay == decay], others], tmp_path)


# -- divergence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e20, 100.0], ids=["at once", "by and by"])
def test_diverging_members_stop_alone(lr, tmp_path, store):
    """Whatever changes their masks, they are marked, and what hangs on them; the others end as they
    do without them."""
    calm, wild, late = (
        small(weight_decay=0.05, lr=a, sparse_lr=b) for a, b in ((0.1, 0.1), (lr, 0.1), (0.1, lr))
    )
    parent = pruned(calm)
    sound = [parent, *moving(parent)]
    lost = [
        pruned(wild, every=1, end=9),
        pruned(wild, sparsity=0.5),
        *moving(pruned(late), every=1, end=14),
    ]
    lost += [ticket(lost[0]), finetune(lost[1], sparsity=0.5), *moving(lost[0], "set", "rigl")]
    without = outcomes(sound, tmp_path / "without")
    table = carry_out([run for pair in zip_longest(lost, sound) for run in pair if run], store)
    marked = table.groupby("key")["diverged"].first()
    assert marked[[run.key for run in lost]].all()
    assert not marked[[run.key for run in sound]].any()
    for run, expected in zip(sound, without, strict=True):
        same_tensors(store.get(run.key).tensors, expected.tensors)
        same_table(pd.DataFrame(store.get(run.key).history), pd.DataFrame(expected.history))


@pytest.mark.parametrize("decay", [0.0, 60.0], ids=["sound", "diverged"])
def test_an_emptied_layer_is_one_runs_own_matter(decay, store):
    """Global pruning that leaves a layer without weights ends no other run of the cohort; nothing
    is trained on such a mask."""
    setup, options = (
        small(widths=[2], keep_dense=[], lr=0.9, weight_decay=decay),
        {"sparsity": 0.975, "every": 1, "end": 4},
    )
    empty, other = pruned(setup, **options), Run.dense(small(widths=[2], keep_dense=[]), seed=0)
    table = carry_out([empty, other], store).groupby("key").tail(1).set_index("key")
    assert table["diverged"].tolist() == [decay > 0, False]
    assert table.loc[empty.key, "pruned"] == round(0.975 * (64 * 2 + 2 * 10))
    assert store.get(empty.key).info["empty layers"] == ["1.weight"]
    if not decay:
        with pytest.raises(
            ValueError,
            match=r"sparsity 0.975 leaves no weight in 1.weight \(seed 0\); choose a lower one",
        ):
            carry_out([ticket(empty)], store)


# -- what is refused -------------------------------------------------------------------------------


def on(parent, **mask_update):
    return scratch(
        parent,
        sparsity=SPARSITY,
        mask_update=MaskUpdate(
            **{"method": "rigl", "every": 4, "end": 12, "fraction": 0.3, "held": 40, **mask_update}
        ),
    )


def bare(**fields):
    setup = small()
    return Run(
        **{
            "seed": 0,
            "data": setup.data,
            "network": setup.network,
            "recipe": setup.dense,
            **fields,
        }
    )


def fan_out():
    return pruned(small(init="he-fan-out"))


NAN = math.nan
REFUSED = [
    # beyond the run, which has 15 steps on 150 examples
    (lambda g: on(g, end=16), "updates end at step 16: the run has only 15 steps"),
    (lambda g: pruned(small(), end=20), "updates end at step 20: the run has only 15 steps"),
    (
        lambda g: on(g, every=16, end=15),
        "update frequency is 16 steps from 0 to 15: in a run of 15 steps no update would "
        "come",
    ),
    (
        lambda g: on(g, every=15, end=15),
        "update frequency is 15 steps from 0 to 15: in a run of 15 steps no update would "
        "come",
    ),
    (
        lambda g: pruned(small(), every=5),
        "gradual pruning from step 0 to 12 every 5 steps: the last update must fall on "
        "the end",
    ),
    (
        lambda g: pruned(small(), start=12),
        "gradual pruning from step 12 to 12 every 4 steps: the last update must fall on "
        "the end",
    ),
    (
        lambda g: on(g, start=13),
        "updates start at step 13 and end at 12: the start may be neither below 0 nor "
        "behind the end",
    ),
    (lambda g: on(g, held=151), "held is 151: there are only 150 training examples"),
    # no such value
    (lambda g: on(g, every=0), "every\n.*greater than or equal to 1.*input_value=0"),
    (lambda g: on(g, start=-1), "start\n.*greater than or equal to 0.*input_value=-1"),
    (lambda g: on(g, held=0), "held\n.*greater than or equal to 1.*input_value=0"),
    (lambda g: on(g, every=2.5), "every\n.*valid integer.*input_value=2.5"),
    (lambda g: on(g, fraction=None), r"drop fraction is None: it must lie in \[0, 1\]"),
    (lambda g: on(g, fraction=1.1), "fraction\n.*less than or equal to 1.*input_value=1.1"),
    (lambda g: on(g, fraction=-0.1), "fraction\n.*greater than or equal to 0.*input_value=-0.1"),
    (lambda g: on(g, fraction=NAN), "fraction\n.*finite number.*input_value=nan"),
    (
        lambda g: on(g, method="rigged"),
        "method\n.*allowed are gradual, set, rigl, rigl-inverted.*input_value='rigged'",
    ),
    (
        lambda g: on(g, drop="sine"),
        "drop\n.*allowed are rate, cosine, constant.*input_value='sine'",
    ),
    (
        lambda g: on(g, gradient="some"),
        "gradient\n.*should be 'held' or 'batch'.*input_value='some'",
    ),
    (lambda g: on(g, colour="red"), "colour\n.*Extra inputs are not permitted.*input_value='red'"),
    (
        lambda g: scratch(g, sparsity=SPARSITY, form="newron"),
        "form is 'newron': allowed are masked, layer, neuron",
    ),
    # what cannot be together
    (
        lambda g: scratch(fan_out(), sparsity=SPARSITY, form="neuron"),
        "form is 'neuron': .* 'he-fan-out'; allowed are masked and layer",
    ),
    (
        lambda g: on(g, method="gradual"),
        "mask_update is 'gradual' in a 'sol_s': a gradually pruned run, 'sol_g', and no "
        "other has 'gradual'",
    ),
    (
        lambda g: gradually_pruned(small(), seed=0, sparsity=0.5, mask_update=plan("set")),
        "mask_update is 'set' in a 'sol_g'",
    ),
    (lambda g: bare(solution="sol_g", pruning=g.pruning), "mask_update is None in a 'sol_g'"),
    (
        lambda g: bare(solution="sol_d", mask_update=plan("set")),
        "mask_update is 'set' in a 'sol_d': there is no mask from its start on",
    ),
    # sparsities
    (lambda g: pruned(small(), sparsity=None), "sparsity is None: it should be a valid number"),
    (lambda g: pruned(small(), sparsity=1.0), "sparsity is 1.0: it should be less than 1"),
    (
        lambda g: bare(solution="sol_g", mask_update=plan("gradual")),
        "a sparse run has both, a gradually pruned one no parent",
    ),
    (
        lambda g: pruned(small(scope="layer", widths=[2], keep_dense=[]), sparsity=0.98),
        "scope 'layer' leaves no weight in '3.weight'",
    ),
    (
        lambda g: finetune(g, sparsity=0.5),
        "sparsity is 0.5: a run on the mask of a gradually pruned one has its sparsity, "
        "0.8",
    ),
    (
        lambda g: scratch(g, sparsity=0.9),
        "sparsity is 0.9: a run on the mask of a gradually pruned one has its sparsity, "
        "0.8",
    ),
    # epochs and parents
    (
        lambda g: ticket(g, rewind=1),
        r"rewind is 1: the pruned run keeps its weights at \[2\] only; add it to its "
        r"`keep`",
    ),
    (lambda g: ticket(g, rewind=4), r"rewind is 4: the pruned run keeps its weights at \[2\] only"),
    (
        lambda g: ticket(g, rewind=-1),
        "rewind is -1: it should be greater than or equal to 0",
    ),
    (lambda g: pruned(small(), keep=(4,)), r"keep is \(4,\): the run has only 3 epochs"),
    (
        lambda g: ticket(Run.dense(small(), seed=0)),
        "mask of a gradually pruned run, 'sol_g', and not of one that is 'sol_d'",
    ),
    (lambda g: ticket(ticket(g)), "and not of one that is 'sol_t'"),
    (
        lambda g: continued(g, at=2, sparsity=SPARSITY),
        "is a dense run, 'sol_d', and not a gradually pruned one, 'sol_g'",
    ),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda n: REFUSED[n][1][:40])
def test_what_makes_no_sense_is_refused(number, store, trained):
    """Before anything is trained, the parents included, and where a plan's cost is counted; the
    message has the name, the value and what is allowed."""
    make, message = REFUSED[number]
    needs_network = "leaves no weight" in message
    for asked in (carry_out,) if needs_network else (results.cost, carry_out):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            asked([Run.dense(small(), seed=0), make(pruned(small(), keep=(2,)))], store)
    assert trained == []
    assert not list(store.root.rglob("*.safetensors"))
