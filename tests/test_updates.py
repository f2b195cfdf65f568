"""Masks that change while their networks train: against a loop written out, in any company, after a death, and where they start."""

import math

import numpy as np
import pytest
import torch
from support import carry_out, images_of, labels_of, layout_of, outcomes, same_in_all, small

from lib import data, draws, init, masks, networks, sweep, updates
from lib.cohort import build
from lib.runs import Run, Topology, finetune, gradually_pruned, scratch, ticket

SPARSITY = 0.8


def plan(method, every=4, end=12, **options):
    """A topology; 150 digits in batches of 32 are 5 steps an epoch, so that most updates fall between two ends of epochs."""
    return Topology(method=method, every=every, end=end, **({} if method == "gradual" else {"fraction": 0.3}), **options)


def pruned(setup, seed=0, sparsity=SPARSITY, keep=(), **options):
    """A gradually pruned run."""
    return gradually_pruned(setup, seed=seed, sparsity=sparsity, topology=plan("gradual", **options), keep=keep)


def moving(parent, *methods, held=40, **options):
    """Runs from scratch whose mask begins as the parent's and changes, for each of the methods; "rigl-batch" grows by its batch."""
    found = []
    for name in methods or ("set", "rigl", "rigl-batch", "rigl-inverted", "rigl-inverted-batch"):
        gradient = {"gradient": "batch"} if name.endswith("-batch") else {"held": held}
        topology = plan(name.removesuffix("-batch"), **{**gradient, **options})
        found.append(scratch(parent, sparsity=parent.sparsity or SPARSITY, topology=topology))
    return found


# -- against a loop written out ----------------------------------------------------------------------------------------


def rate_by_hand(recipe, position):
    """The learning rate at a position in epochs."""
    return recipe.lr * {"constant": 1.0, "cosine": (1 + math.cos(math.pi * position / recipe.epochs)) / 2}[recipe.schedule]


def lowest(values, count):
    """The places of the ``count`` lowest, the first among equals; fails where rounding could decide."""
    order = np.argsort(values, kind="stable")
    if 0 < count < len(order):
        last, next_one = values[order[count - 1 : count + 1]]
        assert last == next_one == 0 or next_one - last > 5e-5 * max(abs(last), abs(next_one)), "choose a seed that decides more clearly"
    return order[:count]


def pruned_by_hand(run, step, weights, mask):
    """The cubic schedule (Zhu & Gupta 2017, Eq. 1): what is pruned stays so, and the smallest of the rest follow it."""
    t = run.topology
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
        for name, part in zip(new, np.split(live, np.cumsum([size.size for size in sizes.values()])[:-1]), strict=True):
            new[name] = part
    return {name: live.reshape(mask[name].shape) for name, live in new.items()}


def regrown_by_hand(run, step, rate, weights, mask, gradient):
    """In each layer the smallest live weights go, and as many of all that are dead then come, by the gradient or at random."""
    t, new = run.topology, {}
    fraction = {
        "rate": t.fraction * rate / run.recipe.lr,
        "cosine": t.fraction * (1 + math.cos(math.pi * step / t.end)) / 2,
        "constant": t.fraction,
    }[t.drop]
    rng = draws.generator(run.seed, "sol_s", "grow", step)
    for name, weight in weights.items():
        live = mask[name].ravel().nonzero()[0]
        count = int(fraction * len(live) + 1e-9)
        kept = np.delete(live, lowest(np.abs(weight.ravel()[live]), count))
        dead = np.setdiff1d(np.arange(weight.size), kept)
        if t.method == "set":
            wish = torch.rand(weight.size, generator=rng, dtype=torch.float64).numpy()
        else:
            wish = np.abs(gradient[name].ravel()) * (-1 if t.method == "rigl" else 1)
        grown = dead[lowest(wish[dead], count)]
        new[name] = np.zeros(weight.size, dtype=bool)
        new[name][[*kept, *grown]] = True
    return {name: live.reshape(mask[name].shape) for name, live in new.items()}


def by_hand(run, weights, buffers, mask):
    """(module, mask by name) at the end of ``run``: one network, its gradients by autograd, each step and each update written out."""
    images, labels, recipe, t = images_of(run), labels_of(run), run.recipe, run.topology
    network = build(run.network, images.shape, images.classes).to_empty(device="cpu")
    for name, value in {**weights, **buffers}.items():
        network.get_parameter(name).data.copy_(value) if name in weights else network.get_buffer(name).copy_(value)
    kernels, own = networks.prunable(network, run.pruning.keep_dense), dict(network.named_parameters())
    crop = data.Cropper(images.x_train, images.black) if run.data.augment else None
    velocity, mask = {name: torch.zeros_like(p) for name, p in own.items()}, {name: live.clone() for name, live in mask.items()}
    count, step = len(labels), 0
    batches = math.ceil(count / recipe.batch_size)

    def gradient(x, y):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        return dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))

    for epoch in range(recipe.epochs):
        order = torch.randperm(count, generator=draws.generator(run.seed, run.solution, "order", epoch))
        moves = crop.draw(count, draws.generator(run.seed, run.solution, "crop", epoch)) if crop else None
        for number, batch in enumerate(order.split(recipe.batch_size)):
            x = crop(batch, moves[number * recipe.batch_size :][: len(batch)]) if crop else images.x_train[batch]
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
                    p -= rate * (g + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name])
            step += 1
            due = t and step >= t.start and step <= t.end and (step - t.start) % t.every == 0
            if not due or (t.method != "gradual" and step == recipe.epochs * batches):
                continue
            network.eval()
            found = gradient(x, labels[batch]) if t.gradient == "batch" else gradient(images.x_train[: t.held], labels[: t.held])
            arrays = [{n: of[n].detach().numpy() for n in kernels} for of in (own, mask, found)]
            new = pruned_by_hand(run, step, *arrays[:2]) if t.method == "gradual" else regrown_by_hand(run, step, rate, *arrays)
            for name, live in new.items():
                both = mask[name] & torch.from_numpy(live)
                own[name].data.mul_(both)
                velocity[name].mul_(both)
                mask[name] = torch.from_numpy(live)
    return network, mask


def start_of(run, parent):
    """(weights, buffers, mask) by name at the start of ``run``, from the tensors of the gradually pruned run that it hangs on."""
    layout, images = layout_of(run), images_of(run)
    network = build(run.network, images.shape, images.classes)
    fresh = layout.views(layout.fresh_buffers(), buffers=True)
    if parent is None:
        return init.dense(network, "he", run.seed), fresh, {n: torch.ones(s, dtype=torch.bool) for n, s in layout.parameters.items()}
    mask = layout.views(parent["mask"])
    return {n: w * mask[n] for n, w in init.dense(network, "he", run.seed, "scratch").items()}, fresh, mask


def assert_as_by_hand(setup, seed, tmp_path, rtol, atol, drop, held=40, **moments):
    parent = pruned(setup, seed, **moments)
    runs = [parent, *moving(parent, drop=drop, held=held, **moments)]
    tensors = [done.tensors for done in outcomes(runs, tmp_path)]
    assert len({t["mask"].numpy().tobytes() for t in tensors}) == len(runs), "what the methods do must differ here"
    for run, found in zip(runs, tensors, strict=True):
        network, mask = by_hand(run, *start_of(run, tensors[0] if run.parent else None))
        layout, said = layout_of(run), f"{run.topology.method}, {run.topology.gradient}"
        for name, live in layout.views(found["mask"]).items():
            assert torch.equal(live, mask[name]), f"{said}: {name}"
        for name, value in layout.views(found["weights"]).items():
            theirs = network.get_parameter(name).detach()
            torch.testing.assert_close(value, theirs, rtol=rtol, atol=atol, msg=lambda m, name=name, said=said: f"{said}, {name}: {m}")
        for name, value in layout.views(found["buffers"], buffers=True).items():
            torch.testing.assert_close(value, network.get_buffer(name), rtol=rtol, atol=atol)


RECIPES = [
    (3, "rate", {"schedule": "cosine", "weight_decay": 0.01, "scope": "layer", "widths": [20, 12]}),
    (5, "cosine", {"nesterov": True, "weight_decay": 0.05, "decay": "kernels", "noise": 0.3, "widths": [16, 10]}),
    (1, "constant", {"momentum": 0.0, "augment": True, "normalise": "channel", "keep_dense": [], "activation": "tanh"}),
]


@pytest.mark.parametrize(("seed", "drop", "options"), RECIPES, ids=[drop for _, drop, _ in RECIPES])
def test_mlps_train_as_written_out(seed, drop, options, tmp_path):
    """Pruned gradually, or changed by SET, RigL and its inverse, each member ends with the mask and the weights of a plain loop."""
    assert_as_by_hand(small(**options), seed, tmp_path, 1e-4, 2e-6, drop)


def test_lenet_5_trains_as_written_out(tmp_path, place_set, one_thread):
    """So does LeNet-5 on images of 28x28 pixels."""
    place_set("mnist", shape=(28, 28), classes=10, train=48, test=16)
    form = {"dataset": "mnist", "network": "lenet-5", "widths": [4, 8, 30, 20]}
    recipe = {"train_examples": None, "test_examples": None, "batch_size": 16, "lr": 0.05, "weight_decay": 1e-3}
    assert_as_by_hand(small(**form, **recipe, scope="layer"), 4, tmp_path, 1e-3, 1e-5, "rate", every=2, end=8)


def test_a_resnet_trains_as_written_out(tmp_path, place_set, one_thread):
    """And a ResNet: the gradient by which its weights grow is that of the network as it predicts, with running statistics.

    One update and a step behind it: later on a unit that is on in one and off in the other, by rounding, sets the two apart.
    """
    place_set()
    form = {"dataset": "cifar10", "network": "resnet-20", "width": 0.25, "train_examples": None, "test_examples": None}
    recipe = {"batch_size": 16, "lr": 0.02, "epochs": 1, "sparse_epochs": 1, "weight_decay": 1e-2, "decay": "kernels"}
    assert_as_by_hand(small(**form, **recipe), 0, tmp_path, 1e-3, 1e-5, "constant", every=2, end=2, held=8)


# -- what holds after every step ---------------------------------------------------------------------------------------


@pytest.fixture
def after_every_update(monkeypatch):
    """What each group held before and after each of its steps' updates: (runs, step, mask before, mask after, count of what should be 0)."""
    seen, real = [], updates.Updates.after

    def watched(self, steps, *arguments):
        before = self.rows.mask.clone()
        real(self, steps, *arguments)
        left = self.rows.weights[~self.rows.mask].count_nonzero() + self.rows.velocity[~self.rows.mask].count_nonzero()
        seen.append((self.runs, steps, before, self.rows.mask.clone(), int(left)))

    monkeypatch.setattr(updates.Updates, "after", watched)
    return seen


NETWORKS = {
    "mlp": {"widths": [20, 12]},
    "large mlp": {"widths": [300, 100], "train_examples": 70, "batch_size": 16},  # a group of its own each
    "resnet": {"network": "resnet-20", "width": 0.25, "train_examples": 40, "batch_size": 8, "lr": 0.02, "augment": True},
}


def counts(run, row):
    """How many weights of each prunable layer are pruned in a mask row, and how many the layer has."""
    views = layout_of(run).views(row)
    names = networks.prunable(build(run.network, images_of(run).shape, 10), run.pruning.keep_dense)
    return {name: int((~views[name]).sum()) for name in names}, {name: views[name].numel() for name in names}


@pytest.mark.parametrize(("network", "nesterov"), [("mlp", False), ("mlp", True), ("resnet", True)])
def test_density_holds_and_pruned_weights_stay_zero(network, nesterov, store, after_every_step, after_every_update):
    """After every step and every update: as many live weights in each layer as before, and nothing but zero elsewhere; masks change when due."""
    parent = pruned(small(**NETWORKS[network], nesterov=nesterov, weight_decay=0.05))
    carry_out([parent], store)
    after_every_step.clear(), after_every_update.clear()
    runs = moving(parent, start=2, end=11, every=3, drop="constant")
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
    assert all(steps == [2, 5, 8, 11] for steps in changes.values())
    for run in runs:
        info, start = store.get(run.key).info, store.get(parent.key)
        assert (info["pruned"], info["density"]) == (start.info["pruned"], start.info["density"])
        assert info["mask"] != start.info["mask"]


@pytest.mark.parametrize("keep_dense", [[], ["last"]])
@pytest.mark.parametrize("scope", masks.SCOPES)
def test_gradual_pruning_is_exact_at_every_update(scope, keep_dense, store, after_every_step, after_every_update):
    """Round(s n) of each layer under the layer scope, round(s N) of all under the others, with s of the schedule; nothing comes back."""
    setup = small(widths=[21, 13], scope=scope, keep_dense=keep_dense, weight_decay=0.05)
    runs = [pruned(setup, sparsity=s, start=start, end=end) for s, start, end in ((0.83, 0, 12), (0.57, 5, 13), (0.0, 3, 15))]
    table = carry_out(runs, store)
    assert not any(alive for alive, _ in after_every_step)
    assert len(after_every_update) == 15
    for group, step, before, after, left in after_every_update:
        assert left == 0
        for run, old, new in zip(group, before, after, strict=True):
            t = run.topology
            past = min(t.end, step - (step - t.start) % t.every)  # the last update so far
            goal = run.sparsity * (1 - (1 - max(past - t.start, 0) / (t.end - t.start)) ** 3)
            gone, sizes = counts(run, new)
            if scope == "layer":
                assert gone == {name: round(goal * size) for name, size in sizes.items()}
            else:
                assert sum(gone.values()) == round(goal * sum(sizes.values()))
            assert (old | ~new).all()
    last = sweep.final(table).set_index("key")
    for run in runs:
        done = store.get(run.key)
        gone, sizes = counts(run, done.tensors["mask"])
        exact = sum(round(run.sparsity * n) for n in sizes.values()) if scope == "layer" else round(run.sparsity * sum(sizes.values()))
        assert sum(gone.values()) == exact == last.loc[run.key, "pruned"]
        assert last.loc[run.key, "prunable"] == sum(sizes.values())
        assert last.loc[run.key, "density"] == pytest.approx(1 - exact / sum(sizes.values()))


# -- companies, threads and deaths -------------------------------------------------------------------------------------


def first_generation(setup, seed):
    """Dense runs and gradually pruned ones of several plans."""
    return [Run.dense(setup, seed=seed), pruned(setup, seed), pruned(setup, seed, sparsity=0.5, every=3, start=1, end=10, keep=(1,))]


def second_generation(setup, seed):
    """On these: masks that change, masks that stay, and none."""
    dense, gradual, kept = first_generation(setup, seed)
    fixed = [scratch(gradual, sparsity=SPARSITY), ticket(gradual), ticket(kept, rewind=1), finetune(gradual, sparsity=SPARSITY)]
    none = [scratch(dense, sparsity=0.0), scratch(gradual, sparsity=SPARSITY, form="neuron")]
    return [*moving(gradual), *moving(kept, "set", "rigl", start=2, end=9, drop="cosine"), *fixed, *none]


@pytest.mark.parametrize("network", NETWORKS)
def test_gradually_pruned_members_do_not_depend_on_their_company(network, tmp_path, one_thread):
    """The same bits and rows alone, beside dense ones and beside those that are pruned at other moments."""
    setup = small(**NETWORKS[network], weight_decay=5e-4)
    same_in_all(pruned(setup), [[Run.dense(setup, seed=0)], [*first_generation(setup, 1), *first_generation(setup, 0)[::2]]], tmp_path)


@pytest.mark.parametrize("method", ["set", "rigl", "rigl-batch", "rigl-inverted"])
@pytest.mark.parametrize("network", NETWORKS)
def test_changing_members_do_not_depend_on_their_company(network, method, tmp_path, one_thread):
    """Nor do the others, beside all other methods, static masks and dense ones; a ResNet carries RigL alone, to save time."""
    if network == "resnet" and method != "rigl":
        pytest.skip("one method is enough here")
    setup = small(**NETWORKS[network], weight_decay=5e-4)
    run = moving(pruned(setup), method)[0]
    others = [other for other in second_generation(setup, 0) if other != run]
    same_in_all(run, [others] if network == "resnet" else [others[-1:], [*others, *second_generation(setup, 1)]], tmp_path)
