"""A folder of images: found, checked, streamed as a plain loop would read it, and trained on with
the code of every other set.
"""

import os
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from support import carry_out, same_results, same_table
from torchvision.transforms import functional

from lib import rng
from lib.data import folder as folders
from lib.data import sets
from lib.runs import results, sweep
from lib.runs.store import Store
from lib.specs.fields import ParameterError
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, gradually_pruned, scratch, ticket
from lib.training import loop
from studies import presets

CLASSES = ("ant", "bee", "cat")
TRAIN, VAL = 8, 3  # images of a class


def paint(path, label, number, size):
    """An image with colours by its class, and noise by its number.

    Of many sizes, proportions, modes and file types.
    """
    stream = np.random.default_rng(1000 * label + number)
    small = np.zeros((4, 4, 3)) + 200 * np.eye(3)[label % 3] + stream.integers(0, 56, (4, 4, 3))
    image = Image.fromarray(small.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if number % 4 == 1:
        image.convert("L").save(path.with_suffix(".png"))
    elif number % 4 == 2:
        image.convert("CMYK").save(path.with_suffix(".jpg"))
    else:
        image.save(path.with_suffix(".JPEG"), quality=90)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set of three classes; only the first four images of each part are looked at whole before
    training.
    """
    monkeypatch.setattr(folders, "SAMPLE", 4)
    for part, count in (("train", TRAIN), ("val", VAL)):
        for label, name in enumerate(CLASSES):
            where = tmp_path / "set" / part / name
            where.mkdir(parents=True)
            (where / "notes.txt").write_text("no image")
            for number in range(count):
                paint(
                    where / f"{part}_{number}",
                    label,
                    number,
                    (36 + 5 * number, 36 + 9 * ((number + label) % 3)),
                )
    yield tmp_path / "set"
    folders.load.cache_clear()


def load(folder, **more):
    folders.load.cache_clear()
    return sets.load("folder", folder=str(folder), image_size=32, **more)


SMALL = {
    **{
        "dataset": "folder",
        "image_size": 32,
        "normalise": "imagenet",
        "augment": True,
        "network": "vgg-16",
        "width": 1 / 16,
    },
    **{
        "init": "he",
        "scope": "erk",
        "keep_dense": ["first"],
        "epochs": 2,
        "sparse_epochs": 2,
        "batch_size": 10,
        "lr": 0.02,
    },
    **{
        "momentum": 0.9,
        "nesterov": True,
        "label_smoothing": 0.1,
        "seeds": 1,
        "measure_every": 9,
        "sparsity": 0.5,
    },
}


def setup_of(folder, **given):
    settings = presets.Settings(**{**SMALL, "folder": str(folder), **given})
    images = load(folder, normalise=settings.normalise, train=settings.train_examples)
    return presets.setup_of(settings, images.fingerprint)


def methods(setup):
    """Dense, gradually pruned and its rewound ticket, and RigL from a random mask with growth
    gradients of held examples.
    """
    gradual = MaskUpdate(method="gradual", every=1, start=1, end=4)
    rigl = MaskUpdate(method="rigl", every=2, end=6, fraction=0.3, drop="cosine", held=7)
    pruned = gradually_pruned(setup, seed=0, sparsity=0.5, mask_update=gradual, keep=(1,))
    by_chance = setup.model_copy(
        update={"pruning": setup.pruning.model_copy(update={"criterion": "random"})}
    )
    dense = Run.dense(by_chance, seed=0)
    return [
        dense,
        pruned,
        ticket(pruned, rewind=1),
        scratch(dense, sparsity=0.5, form="neuron", mask_update=rigl),
    ]


# -- what is read ----------------------------------------------------------------------------------


def test_examples_are_torchvisions(folder):
    """Central crops, labels, normalisation, image by image, in the order of a hash of the names."""
    images = load(folder, normalise="imagenet")
    assert (len(images.x_train), len(images.x_test), images.classes, images.shape) == (
        24,
        9,
        3,
        (3, 32, 32),
    )
    mean, std = (
        torch.tensor(c).view(3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    for part, x, y in (
        ("train", images.x_train, images.y_train),
        ("val", images.x_test, images.y_test),
    ):
        assert sorted(x.names) == sorted(
            f"{p.parent.name}/{p.name}" for p in (folder / part).glob("*/*") if p.suffix != ".txt"
        )
        whole = x[:]
        assert whole.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(torch.cat(list(x.split(5))), whole, rtol=0, atol=0)
        for name, label, ours in zip(x.names, y.tolist(), whole, strict=True):
            theirs = functional.center_crop(
                functional.resize(Image.open(folder / part / name).convert("RGB"), 37), 32
            )
            torch.testing.assert_close(
                ours, (functional.to_tensor(theirs) - mean) / std, rtol=0, atol=1e-6
            )
            assert CLASSES[label] == name.split("/")[0]
    assert len(set(images.y_train[:8].tolist())) > 1  # the first few are of several classes


def test_what_is_hidden_is_passed_over(folder):
    """Files and folders whose names begin with a dot, as Jupyter and others leave them behind."""
    first = load(folder)
    for where in (folder / "train", folder / "val", folder / "train" / "bee"):
        (where / ".ipynb_checkpoints").mkdir()
        paint(where / ".ipynb_checkpoints" / "copy", 0, 0, (40, 40))
    (folder / "train" / "ant" / "._train_0.JPEG").write_text("no image")
    found = load(folder)
    assert (found.fingerprint, found.x_train.names) == (first.fingerprint, first.x_train.names)
    assert sets.size("folder", str(folder)) == 24


def test_random_crops_are_those_of_a_plain_loop(folder):
    """The same draws in a loop of torchvision's functions: bit for bit.

    And their areas, proportions and flips are in range.
    """
    x = load(folder).x_train
    index, seeds = torch.tensor([5, 0, 5, 23, 7, 7]), torch.arange(6) * 12345
    (found,) = x.batches([(index, seeds)])
    for ours, number, seed in zip(found, index.tolist(), seeds.tolist(), strict=True):
        image = Image.open(folder / "train" / x.names[number]).convert("RGB")
        u = torch.rand(
            41, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ).tolist()
        for k in range(1, 41, 4):
            area, ratio = (
                image.width * image.height * (0.08 + 0.92 * u[k]),
                0.75 * (16 / 9) ** u[k + 1],
            )
            width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if width <= image.width and height <= image.height:
                left, top = (
                    int(u[k + 2] * (image.width - width + 1)),
                    int(u[k + 3] * (image.height - height + 1)),
                )
                break
        part = functional.resized_crop(image, top, left, height, width, [32, 32])
        part = functional.hflip(part) if u[0] < 0.5 else part
        torch.testing.assert_close(ours, functional.to_tensor(part), rtol=0, atol=1e-7)


class Recorder:
    """In the place of a PIL image: remembers what was cut out of it and whether it was flipped."""

    def __init__(self, width, height):
        self.size, self.box, self.flipped = (width, height), None, False

    def crop(self, box):
        self.box = box
        return self

    def resize(self, *arguments):
        return self

    def transpose(self, how):
        self.flipped = True
        return self


def test_random_crops_lie_inside_and_vary():
    """3,000 crops of a wide image.

    Inside it, as large as a rejection sampler's, half of them flipped; of a thread, its middle.
    """
    found = []
    for seed in range(3000):
        image = Recorder(400, 300)
        folders.cropped(image, 32, seed)
        left, top, right, bottom = image.box
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        assert 0.74 < (right - left) / (bottom - top) < 1.36
        found.append(((right - left) * (bottom - top) / 120_000, image.flipped))
    stream = np.random.default_rng(0)
    area, ratio = (
        stream.uniform(0.08, 1, 200_000),
        np.exp(stream.uniform(np.log(3 / 4), np.log(4 / 3), 200_000)),
    )
    fits = (np.sqrt(120_000 * area * ratio) <= 400) & (np.sqrt(120_000 * area / ratio) <= 300)
    shares, flips = np.array(found).T
    assert abs(shares.mean() - area[fits].mean()) < 4 * shares.std() / 3000**0.5
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / 3000**0.5
    assert shares.min() < 0.09
    assert shares.max() > 0.9
    thread = Recorder(1000, 10)
    folders.cropped(thread, 32, 0)
    assert thread.box == (493, 0, 506, 10)


def test_no_more_is_held_than_the_batches_ahead(folder, monkeypatch):
    """While a batch is at work two more are decoded, and no image beyond them.

    All at once are refused where they are too many.
    """
    x = load(folder).x_train
    decoded, real = [], folders.Streamed.decode
    monkeypatch.setattr(
        folders.Streamed,
        "decode",
        lambda self, number, seed=None: decoded.append(number) or real(self, number, seed),
    )
    order = random.Random(0).sample(range(24), 24)
    batches = x.batches((torch.tensor(order[k : k + 4]), None) for k in range(0, 24, 4))
    for number in range(1, 7):
        next(batches)
        assert (
            set(order[: 4 * number]) <= set(decoded) <= set(order[: 4 * (number + folders.AHEAD)])
        )
    assert sorted(decoded) == list(range(24))
    decoded.clear()
    assert torch.equal(x[:5], x[:5])
    assert sorted(decoded) == [0, 1, 2, 3, 4]  # once
    monkeypatch.setattr(folders, "LIMIT", 20 * x.bytes)
    assert sum(len(part) for part in x.split(6)) == 24
    with pytest.raises(
        sets.DataError,
        match=r"24 images of 32x32 pixels were asked for at once.* at most 20 \(setting watch_ex",
    ):
        x[:]


def test_the_fingerprint(folder):
    """Of names, sides and the first images' bytes.

    Not of the place, nor of the bytes of the others; other settings give another.
    """
    first = load(folder)
    moved = shutil.copytree(folder, folder.parent / "elsewhere")
    assert load(moved).fingerprint == first.fingerprint
    others = [
        load(folder, train=20),
        load(folder, normalise="imagenet"),
        sets.load("folder", folder=str(folder), image_size=40),
    ]
    path = moved / "train" / first.x_train.names[-1]
    path.write_bytes(path.read_bytes()[:-20])  # to be mended without a new key
    assert load(moved).fingerprint == first.fingerprint
    path = moved / "train" / first.x_train.names[0]
    Image.new("RGB", Image.open(path).size).save(path)
    others.append(load(moved))
    Image.new("RGB", (50, 50)).save(moved / "train" / first.x_train.names[9])
    others.append(load(moved))
    assert len({images.fingerprint for images in (first, *others)}) == 6


def test_a_run_is_the_same_wherever_the_folder_lies(folder):
    """Its place is no part of a specification, and the new settings are none where they are at
    their defaults.
    """
    here, there = (
        setup_of(place) for place in (folder, shutil.copytree(folder, folder.parent / "elsewhere"))
    )
    assert Run.dense(here, seed=0).key == Run.dense(there, seed=0).key
    specification = Run.dense(here, seed=0).specification
    assert specification["data"]["image_size"] == 32
    assert "folder" not in specification["data"]
    plain = Run.dense(setup_of(folder, label_smoothing=0.0), seed=0).specification["recipe"]
    assert specification["recipe"]["label_smoothing"] == 0.1
    assert not {"label_smoothing", "micro_batch"} & plain.keys()


# -- bad input -------------------------------------------------------------------------------------


def spoil(folder, how):
    """Do to the set what ``how`` says."""
    match how:
        case "gone":
            shutil.rmtree(folder)
        case "no val":
            shutil.rmtree(folder / "val")
        case "no classes":
            shutil.rmtree(folder / "train")
            (folder / "train").mkdir()
        case "empty class":
            shutil.rmtree(folder / "train" / "bee")
            (folder / "train" / "bee").mkdir()
        case "strange class":
            (folder / "val" / "cat").rename(folder / "val" / "dog")
        case "class without val":
            shutil.rmtree(folder / "val" / "cat")
        case "only hidden":
            shutil.rmtree(folder / "train")
            (folder / "train" / ".ant").mkdir(parents=True)
        case "no image":
            (folder / "train" / "ant" / "train_0.JPEG").write_text("<html>not found</html>")
        case "broken png":
            path = folder / "train" / "ant" / "train_1.png"
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 255
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("gone", r"set/train is no folder of .*data/README.md.*: .*No such file or directory"),
        ("no val", r"set/val is no folder of .*No such file or directory"),
        ("no classes", r"set/train is no folder of .*Couldn't find any class folder"),
        (
            "empty class",
            r"set/train is no folder of .*the classes bee\. +\(images end in \.jpg",
        ),
        (
            "strange class",
            r"set must hold the same classes in train/ and val/: val/ lacks cat$",
        ),
        (
            "class without val",
            r"set must hold the same classes in train/ and val/: val/ lacks cat$",
        ),
        ("only hidden", r"set/train is no folder of .*"),
        (
            "no image",
            r"1 of the 24 images in .*set/train cannot be opened: ant/train_0\.JPEG "
            r"\(UnidentifiedImageError\)",
        ),
        (
            "broken png",
            r"1 of the 24 images in .*set/train cannot be opened: ant/train_1\.png \(SyntaxError\)",
        ),
    ],
)
def test_a_set_that_cannot_be_used(folder, how, says):
    """It is said before any training what is wrong, and where."""
    spoil(folder, how)
    with pytest.raises(sets.DataError, match=says):
        load(folder)


def test_settings_that_cannot_be_used(folder, monkeypatch):
    """No folder, a treatment that needs every image, more examples than there are, decoders that
    are no number.
    """
    with pytest.raises(sets.DataError, match="give the parameter folder"):
        sets.load("folder")
    with pytest.raises(
        sets.DataError,
        match="normalise is 'channel'; a folder, which is never held whole, has none, cifar10-code",
    ):
        load(folder, normalise="channel")
    with pytest.raises(sets.DataError, match=r"test_examples is 10; .* has 1 to 9 test examples"):
        load(folder, test=10)
    monkeypatch.setenv("SPARSITY_DECODERS", "many")
    with pytest.raises(sets.DataError, match="SPARSITY_DECODERS is 'many'"):
        load(folder)


def test_a_criterion_needs_a_number_of_examples(folder, store, trained):
    """Before any training: all images would have to be held for it."""
    setup = setup_of(folder, criterion="snip")
    with pytest.raises(
        ValueError, match=r"criterion is 'snip': it needs examples, .* give score_examples"
    ):
        carry_out([scratch(Run.dense(setup, seed=0), sparsity=0.5)], store)
    assert not trained


def test_a_name_in_the_folder_of_image_sets(folder, monkeypatch):
    """A relative folder lies there, so that a preset can name it."""
    monkeypatch.setenv("SPARSITY_DATA", str(folder.parent))
    assert load("set").fingerprint == load(folder).fingerprint
    assert sets.size("folder", "set") == 24


# -- training --------------------------------------------------------------------------------------


def test_a_small_set_trains_as_in_memory(folder, store, tmp_path, monkeypatch):
    """The same images as tensors, with the same crops in their place, give the same network to the
    bit: it is one training loop.
    """
    run = Run.dense(setup_of(folder, augment=False), seed=0)
    carry_out([run], store)
    streamed = load(folder, normalise="imagenet")
    held = sets.ImageSet(
        **{**vars(streamed), "x_train": streamed.x_train[:], "x_test": streamed.x_test[:]}
    )
    monkeypatch.setattr(sweep, "images_of", lambda spec, device: held)
    other = Store(tmp_path / "other")
    carry_out([run], other)
    same_results([run], store, other)


def test_every_method_whatever_the_number_of_decoders(folder, store, tmp_path, monkeypatch):
    """VGG-16 in small: dense, gradual, rewound ticket, RigL.

    With one decoding thread and with three, alone and in a cohort.
    """
    runs = methods(setup_of(folder))
    monkeypatch.setenv("SPARSITY_DECODERS", "1")
    table = carry_out(runs, store)
    last = results.final(table)
    assert (last["epoch"] == 2).all()
    assert not last["diverged"].any()
    assert (last["pruned"] == (last["sparsity"] * last["prunable"]).round()).all()
    monkeypatch.setenv("SPARSITY_DECODERS", "3")
    other = Store(tmp_path / "other")
    for run in runs[:2]:
        carry_out([run], other)
    same_table(carry_out(runs, other), table)
    same_results(runs, store, other)


def test_resnet_50_end_to_end(folder, store):
    """ResNet-50 in small, in micro-batches.

    Dense, gradual, ticket, RigL and a small dense one reach their end, with exact masks.
    """
    setup = setup_of(
        folder, network="resnet-50", micro_batch=5, epochs=1, sparse_epochs=1, batch_size=4
    )
    table = carry_out(methods(setup), store)
    last = results.final(table)
    assert len(last) == 4
    assert (last["epoch"] == 1).all()
    assert not last["diverged"].any()
    assert (last["pruned"] == (last["sparsity"] * last["prunable"]).round()).all()


def test_an_image_that_breaks_while_training(folder, store, tmp_path, monkeypatch):
    """It is named, what was trained before its epoch is kept, and with a sound copy in its place
    all ends as if nothing had happened.
    """
    runs = methods(setup_of(folder))[:2]
    path = folder / "train" / load(folder).x_train.names[-1]
    sound, epochs, real = path.read_bytes(), [], loop.Training.run_epoch

    def breaking(self, *arguments):
        epochs.append(self.epoch)
        if len(epochs) == 2:
            path.write_bytes(sound[: len(sound) // 2])
        real(self, *arguments)

    monkeypatch.setattr(loop.Training, "run_epoch", breaking)
    with pytest.raises(
        sets.DataError,
        match=rf"{path.name} cannot be decoded \(OSError: .*\. Put a sound copy in its place and",
    ):
        carry_out(runs, store)
    assert epochs == [0, 1]
    path.write_bytes(sound)
    folders.load.cache_clear()
    assert setup_of(folder).data == runs[0].data
    table = carry_out(runs, store)
    assert epochs == [0, 1, 1]  # both train in one cohort, and its second epoch was begun again
    other = Store(tmp_path / "other")
    same_table(carry_out(runs, other), table)
    same_results(runs, store, other)


def test_each_epoch_and_member_has_its_own_crops(folder, store, monkeypatch):
    """The draws are those of the named generator, by seed, epoch and place in the member's own."""
    seen, real = [], folders.Streamed.decode

    def watched(self, number, seed=None):
        if seed is not None:
            seen.append((number, seed))
        return real(self, number, seed)

    monkeypatch.setattr(folders.Streamed, "decode", watched)
    setup = setup_of(folder)
    carry_out([Run.dense(setup, seed=seed) for seed in (0, 1)], store)
    expected = []
    for seed in (0, 1):
        for epoch in (0, 1):
            order = torch.randperm(24, generator=rng.generator(seed, "sol_d", "order", epoch))
            crops = torch.randint(
                2**62, (24,), generator=rng.generator(seed, "sol_d", "crop", epoch)
            )
            expected += zip(order.tolist(), crops.tolist(), strict=True)
    assert sorted(seen) == sorted(expected)
    assert len(set(seen)) == 96


# -- what is no image ------------------------------------------------------------------------------


def test_only_images_are_opened(folder):
    """PostScript would start Ghostscript, whatever the file is called."""
    path = folder / "train" / "ant" / "train_1.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(sets.DataError, match=r"ant/train_1.png \(UnidentifiedImageError\)"):
        load(folder)


def test_a_pipe_is_no_image(folder):
    """Reading from one would wait for ever."""
    os.mkfifo(folder / "val" / "bee" / "pipe.png")
    assert len(load(folder).x_test) == 3 * VAL


def test_no_image_is_larger_than_the_limit(folder, monkeypatch):
    """A small file may hold very many pixels."""
    monkeypatch.setattr(folders, "PIXELS", 40 * 40)
    with pytest.raises(sets.DataError, match=r"\(DecompressionBombError\)"):
        load(folder)


def test_links_that_leave_the_folder_are_said(folder, tmp_path):
    """By a warning with their names; links within it are silent."""
    away, ant = tmp_path / "away.png", folder / "train" / "ant"
    paint(away, 0, 1, (40, 40))
    (ant / "within.png").symlink_to(ant / "train_1.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)
    (ant / "linked.png").symlink_to(away)
    with pytest.warns(UserWarning, match=r"1 images of .*train lie elsewhere.*: ant/linked.png"):
        assert len(load(folder).x_train) == 3 * TRAIN + 2


@pytest.mark.parametrize("figure", presets.catalogue())
def test_a_notebook_takes_a_folder_or_refuses_it_by_name(figure, folder):
    """Before any work, and with what to do instead."""
    if "dataset" not in presets.own(figure):
        return
    if "folder" in presets.own(figure):
        given = {"dataset": "folder", "folder": str(folder)}
        assert presets.settings(figure, **given).folder == str(folder)
    else:
        with pytest.raises(ParameterError, match=f"dataset is 'folder': {figure} holds its images"):
            presets.settings(figure, dataset="folder")
