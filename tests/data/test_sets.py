"""Image sets load the same whatever the order of their file, bad files are refused by name, and
noise is known.
"""

import errno
import itertools
import math
import os

import numpy as np
import pytest
import torch
from support import content_digest, forget_sets, random_arrays
from torchvision.transforms import functional as reference

from lib import files, rng
from lib.data import archives, sets
from lib.data.images import Cropper

# -- the 12-bit task -------------------------------------------------------------------------------

GOLDEN = (1 + math.sqrt(5)) / 2
ICOSAHEDRON = [  # the vertices in the order of the bits: three turns of (0, +-1, +-golden)
    tuple(np.roll((0.0, one, phi), turn))
    for turn in range(3)
    for one in (1, -1)
    for phi in (GOLDEN, -GOLDEN)
]


def label_by_hand(bits):
    """DESIGN's rule in plain words, with edges found by their length and antipodes by their sum."""
    chosen = [v for v, bit in zip(ICOSAHEDRON, bits, strict=True) if bit]
    pairs = list(itertools.combinations(chosen, 2))
    n = len(chosen)
    e = sum(math.isclose(math.dist(v, w), 2) for v, w in pairs)
    a = sum(
        all(math.isclose(p, -q, abs_tol=1e-9) for p, q in zip(v, w, strict=True)) for v, w in pairs
    )
    if n <= 4 or n >= 8:
        return int(n >= 8)
    if n == 5:
        return int(e == 7)
    if n == 6:
        return int(e >= 7 or (e == 6 and a == 0))
    return int(not (e == 8 and a == 2))


def test_bits12_follows_the_rule():
    """All 4,096 patterns in counting order, 2,118 of them ones, each labelled as the rule says."""
    x, y = sets.bits12()
    assert x.tolist() == [[(i >> bit) & 1 for bit in range(12)] for i in range(4096)]
    assert y.sum() == 2118
    assert y.tolist() == [label_by_hand(bits) for bits in x.tolist()]


def test_bits12_is_invariant_under_the_symmetries_and_nothing_more():
    """A turn about a threefold axis and the inversion keep every label.

    Exchanging two vertices does not.
    """
    x, y = sets.bits12()

    def labels_after(permutation):
        return y[x[:, permutation] @ (1 << np.arange(12))]

    assert (labels_after([(bit + 4) % 12 for bit in range(12)]) == y).all()
    assert (labels_after([bit // 4 * 4 + 3 - bit % 4 for bit in range(12)]) == y).all()
    assert (labels_after([1, 0, *range(2, 12)]) != y).any()


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "classes"),
    [("digits", (1, 8, 8), 1000, 797, 10), ("bits12", (12,), 3276, 820, 2)],
)
def test_embedded_sets(name, shape, train, test, classes):
    """Split as documented and stratified, scaled to [0, 1], with no example in both parts of the
    12-bit task.
    """
    images = sets.load(name)
    assert (images.shape, images.classes) == (shape, classes)
    assert (len(images.x_train), len(images.y_train), len(images.x_test), len(images.y_test)) == (
        train,
        train,
        test,
        test,
    )
    assert images.x_train.dtype == torch.float32
    assert images.y_train.dtype == torch.int64
    assert (images.x_train.min(), images.x_train.max()) == (0, 1)
    shares = [
        torch.bincount(y, minlength=classes) / len(y) for y in (images.y_train, images.y_test)
    ]
    assert (shares[0] - shares[1]).abs().max() < 0.005
    if name == "bits12":
        both = torch.cat((images.x_train, images.x_test))
        assert len(both.unique(dim=0)) == 4096


# -- files -----------------------------------------------------------------------------------------


def permuted(arrays, seed=1):
    stream = np.random.default_rng(seed)
    result = {}
    for part in ("train", "test"):
        order = stream.permutation(len(arrays[f"y_{part}"]))
        result |= {f"{k}_{part}": arrays[f"{k}_{part}"][order] for k in "xy"}
    return result


def test_the_order_of_a_file_does_not_matter(place_set):
    """The same examples in another order give the same tensors, the same subset and the same
    fingerprint.
    """
    arrays = random_arrays()
    loaded = []
    for version in (arrays, permuted(arrays)):
        place_set(arrays=version)
        loaded.append(
            [sets.load("cifar10"), sets.load("cifar10", train=10, test=7, normalise="channel")]
        )
    for one, other in zip(*loaded, strict=True):
        assert one.fingerprint == other.fingerprint
        assert all(
            torch.equal(getattr(one, k), getattr(other, k))
            for k in ("x_train", "y_train", "x_test", "y_test")
        )
    whole, subset = loaded[0]
    assert whole.fingerprint != subset.fingerprint
    assert torch.equal(whole.y_train[:10], subset.y_train)


def test_a_file_is_loaded_as_it_is(place_set):
    """Every example of the file is there with its label, as [C, H, W] in [0, 1], and no other."""
    arrays = random_arrays()
    place_set(arrays=arrays)
    images = sets.load("cifar10")
    for part in ("train", "test"):
        x, y = getattr(images, f"x_{part}"), getattr(images, f"y_{part}")
        ours = {
            (image.mul(255).round().byte().permute(1, 2, 0).numpy().tobytes(), int(label))
            for image, label in zip(x, y, strict=True)
        }
        assert ours == {
            (image.tobytes(), int(label))
            for image, label in zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)
        }


def test_gray_images_get_a_channel(place_set):
    """A set of [N, H, W] is loaded as [N, 1, H, W]."""
    place_set("mnist", shape=(28, 28), classes=10)
    assert sets.load("mnist").shape == (1, 28, 28)


def test_fingerprints_tell_data_apart(place_set):
    """One pixel, one label, the size or the normalisation: each changes the fingerprint."""
    arrays = random_arrays()
    place_set(arrays=arrays)
    prints = {
        sets.load("cifar10").fingerprint,
        sets.load("cifar10", train=47).fingerprint,
        sets.load("cifar10", test=23).fingerprint,
    }
    prints |= {
        sets.load("cifar10", normalise=how).fingerprint for how in ("channel", "cifar10-code")
    }
    for key, change in (("x_test", 1), ("y_train", 1)):
        altered = {**arrays, key: arrays[key].copy()}
        altered[key].flat[0] = altered[key].flat[0] - change if altered[key].flat[0] else change
        place_set(arrays=altered, classes=4)
        prints.add(sets.load("cifar10").fingerprint)
    assert len(prints) == 7


def test_normalisation_by_channel(place_set):
    """Mean 0 and deviation 1 of each channel over the training examples in use.

    The test part and black move along.
    """
    place_set()
    plain, normal = (sets.load("cifar10", train=30, normalise=how) for how in ("none", "channel"))
    mean = plain.x_train.double().mean((0, 2, 3), keepdim=True)
    std = plain.x_train.double().std((0, 2, 3), keepdim=True)
    for key in ("x_train", "x_test"):
        torch.testing.assert_close(
            getattr(normal, key).double(),
            (getattr(plain, key).double() - mean) / std,
            rtol=1e-5,
            atol=1e-5,
        )
    torch.testing.assert_close(normal.black.double(), (-mean / std).flatten(), rtol=1e-5, atol=1e-6)
    assert plain.black.tolist() == [0, 0, 0]


def test_normalisation_by_the_released_code(place_set):
    """The constants of the price study's code, as torchvision applies them.

    Gray images are refused.
    """
    place_set()
    plain, normal = (sets.load("cifar10", normalise=how) for how in ("none", "cifar10-code"))
    constants = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    torch.testing.assert_close(normal.x_test, reference.normalize(plain.x_test, *constants))
    black = reference.normalize(torch.zeros(3, 1, 1), *constants).flatten()
    torch.testing.assert_close(normal.black, black)
    with pytest.raises(sets.DataError, match="three channels"):
        sets.load("digits", normalise="cifar10-code")


def broken_file(change):
    """Arrays of a small set with one thing wrong."""
    arrays = random_arrays()
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda a: a.update(x_train=a["x_train"][:, :15]),
            r"x_train is uint8 \(48, 15, 16, 3\).*uint8 \(48, 16, 16, 3\)",
        ),
        (lambda a: a.update(x_train=a["x_train"].astype(np.float32)), "x_train is float32"),
        (lambda a: a.update(x_test=a["x_test"][:-1]), r"x_test is uint8 \(23, 16, 16, 3\)"),
        (lambda a: a.update(y_test=a["y_test"][:-1]), r"y_test is uint8 \(23,\).*labels \(24,\)"),
        (lambda a: a.update(y_train=a["y_train"].astype(float)), "y_train is float64"),
        (
            lambda a: a["y_train"].__setitem__(3, 4),
            "y_train holds labels 0 to 4; 'cifar10' has 0 to 3",
        ),
        (
            lambda a: a.update(y_test=a["y_test"].astype(np.int64) - 1),
            "y_test holds labels -1 to 2",
        ),
        (
            lambda a: a["x_train"].__iadd__(1),
            "content has checksum .*delete it and place or download it again",
        ),
        (lambda a: a.pop("y_train"), "cannot be read as a data file .*y_train.*delete it"),
    ],
)
def test_malformed_files_are_refused(place_set, change, says):
    """Wrong shapes, kinds, labels, contents or names.

    The error names the file and what is wrong with it.
    """
    place_set()
    path = place_set_again(place_set, broken_file(change))
    with pytest.raises(sets.DataError, match=says) as caught:
        sets.load("cifar10")
    assert str(path) in str(caught.value)


def place_set_again(place_set, arrays):
    """Put other arrays into the file of a set whose form and checksum stay as they were."""
    path = files.data_root() / "cifar10.npz"
    np.savez(path, **arrays)
    forget_sets()
    return path


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(place_set, keep):
    """A file cut short anywhere is named, with what to do."""
    path = place_set()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(
        sets.DataError, match=r"cifar10\.npz cannot be read as a data file.*delete it"
    ):
        sets.load("cifar10")


def test_a_pickle_in_a_file_is_not_loaded(place_set, tmp_path):
    """An array of objects, which only unpickling could read, is refused."""
    place_set()
    arrays = random_arrays()
    place_set_again(
        place_set, {**arrays, "y_train": np.array(arrays["y_train"].tolist(), dtype=object)}
    )
    with pytest.raises(sets.DataError, match="cannot be read as a data file"):
        sets.load("cifar10")


@pytest.mark.parametrize(
    ("part", "count"), [("train", 49), ("test", 25), ("train", 0), ("test", -1)]
)
def test_more_examples_than_there_are(place_set, part, count):
    """The error names the parameter, its value and how many there are."""
    place_set()
    with pytest.raises(
        sets.DataError,
        match=rf"{part}_examples is {count}; 'cifar10' has 1 to {48 if part == 'train' else 24}",
    ):
        sets.load("cifar10", **{part: count})


def test_unknown_names_are_refused():
    """An unknown set or normalisation is answered with the known ones."""
    with pytest.raises(
        ValueError,
        match="'minst': allowed are digits, bits12, mnist, cifar10, cifar100, folder",
    ):
        sets.load("minst")
    with pytest.raises(
        sets.DataError, match="normalise is 'whiten'; it must be one of none, channel"
    ):
        sets.load("digits", normalise="whiten")


# -- downloads -------------------------------------------------------------------------------------


@pytest.fixture
def pauses(monkeypatch):
    """How long the downloader waited, without waiting."""
    waited = []
    monkeypatch.setattr(archives.time, "sleep", waited.append)
    return waited


def test_a_download_that_fails(monkeypatch, pauses, place_set):
    """It is tried as often as ATTEMPTS says, ever more slowly, and the error says where to put the
    file by hand.
    """
    path, tried = place_set(), []
    path.unlink()

    def fails(name):
        tried.append(name)
        raise RuntimeError("no route to host")

    monkeypatch.setattr(archives, "_download", fails)
    monkeypatch.setattr(archives, "ATTEMPTS", 4)
    with pytest.raises(sets.DataError) as caught:
        sets.load("cifar10")
    assert tried == ["cifar10"] * 4
    assert len(pauses) == 3
    assert pauses == sorted(set(pauses))
    assert all(
        part in str(caught.value)
        for part in (str(path), "4 attempts", "no route to host", "x_train", "SPARSITY_DATA")
    )
    assert list(path.parent.iterdir()) == []


def test_a_download_that_succeeds_late(monkeypatch, pauses, place_set):
    """After a failure it tries again, writes one whole file, and does not download it twice."""
    arrays = random_arrays()
    path, outcomes = place_set(arrays=arrays), [OSError("reset"), arrays]
    path.unlink()

    def flaky(name):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(archives, "_download", flaky)
    first = sets.load("cifar10")
    assert outcomes == []
    assert [p.name for p in path.parent.iterdir()] == ["cifar10.npz"]
    forget_sets()
    assert sets.load("cifar10").fingerprint == first.fingerprint


def test_a_download_is_verified(monkeypatch, pauses, place_set):
    """What arrives is checked like a file placed by hand."""
    path = place_set()
    path.unlink()
    monkeypatch.setattr(archives, "_download", lambda name: random_arrays(seed=5))
    with pytest.raises(sets.DataError, match="checksum"):
        sets.load("cifar10")


def test_a_download_onto_a_full_disk_leaves_nothing(monkeypatch, pauses, place_set):
    """The error names the place and the reason; no part of the file is left."""
    path = place_set()
    path.unlink()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archives, "_download", lambda name: random_arrays())
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(files.StorageError, match=r"cifar10\.npz: the disk is full"):
        sets.load("cifar10")
    assert list(path.parent.iterdir()) == []


def test_a_data_folder_that_cannot_be_made(monkeypatch, pauses, place_set, tmp_path):
    """Where a file stands in the way of the folder, the error says so as a StorageError."""
    place_set()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSITY_DATA", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(archives, "_download", lambda name: random_arrays())
    with pytest.raises(files.StorageError, match=r"file.below.cifar10\.npz"):
        sets.load("cifar10")


def test_the_tests_own_checksum_is_the_projects(place_set):
    """An untrusted checksum is refused and the right one accepted.

    The two ways of computing it agree.
    """
    arrays = random_arrays()
    place_set(arrays=arrays, trusted=False)
    with pytest.raises(sets.DataError, match="checksum " + content_digest(arrays)[:16]):
        sets.load("cifar10")
    place_set(arrays=arrays)
    assert sets.load("cifar10").classes == 4


# -- label noise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sets.NOISES)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 1.0])
def test_label_noise(kind, rate):
    """The picked count is exact, flipped means that given and true differ, and the wrong ones are
    as many as the kind says.
    """
    labels = torch.arange(10_000) % 10
    given, flipped = sets.noisy_labels(labels, rate, 10, seed=4, kind=kind)
    picked = round(rate * 10_000)
    assert torch.equal(flipped, given != labels)
    assert 0 <= given.min() <= given.max() <= 9
    if kind == "flip":
        assert flipped.sum() == picked
    else:
        assert flipped.sum() <= picked
        assert abs(int(flipped.sum()) - 0.9 * picked) <= 6 * math.sqrt(
            picked * 0.9 * 0.1
        )  # six standard errors
    if picked:  # every wrong label is equally likely: chi-squared over the nine shifts
        shifts = torch.bincount((given - labels)[flipped] % 10, minlength=10)[1:].double()
        expected = shifts.sum() / 9
        assert (
            (shifts - expected) ** 2 / expected
        ).sum() < 35  # beyond the 99.99th percentile of 8 degrees


def test_label_noise_picks_no_more_than_it_should():
    """Under symmetric noise the examples that may change are exactly the picked ones.

    Over many label draws, no others do.
    """
    labels = torch.zeros(50, dtype=torch.int64)
    _, flipped = sets.noisy_labels(
        labels, 0.3, 1_000_000, seed=0
    )  # so many classes that no pick keeps its label
    assert flipped.sum() == 15


def test_label_noise_is_named():
    """The same seed gives the same labels, another seed or kind others, and the input is left as it
    was.
    """
    labels = torch.arange(500) % 10
    first, again = (sets.noisy_labels(labels, 0.3, 10, 1)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sets.noisy_labels(labels, 0.3, 10, 2)[0])
    assert not torch.equal(first, sets.noisy_labels(labels, 0.3, 10, 1, "flip")[0])
    assert torch.equal(labels, torch.arange(500) % 10)


# -- augmentation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 10)])
def test_cropper_agrees_with_torchvision(shape):
    """A batch equals torchvision's pad, crop and flip of each image alone, with black in the
    padding.
    """
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(20, *shape, generator=stream)
    black = torch.randn(shape[0], generator=stream)
    crop = Cropper(images, black)
    moves = crop.draw(64, stream)
    moves[:3] = torch.tensor([[0, 0, 0], [8, 8, 1], [4, 4, 0]])
    index = torch.randint(20, (64,), generator=stream)
    batch = crop(index, moves)
    for i, (top, left, flip), ours in zip(index, moves.tolist(), batch, strict=True):
        shifted = images[i] - black.view(-1, 1, 1)  # so that torchvision's zeros are black
        one = reference.crop(reference.pad(shifted, 4), top, left, *shape[1:])
        one = reference.hflip(one) if flip else one
        torch.testing.assert_close(ours, one + black.view(-1, 1, 1), rtol=0, atol=1e-6)
    assert torch.equal(batch[2], images[index[2]])  # offset 4 without a flip moves nothing


def test_crops_are_drawn_uniformly():
    """All 9 x 9 offsets and both flips come up equally often."""
    crop = Cropper(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    moves = crop.draw(81 * 2 * 100, rng.generator(0, "crop", 0))
    counts = torch.bincount(
        moves[:, 0] * 18 + moves[:, 1] * 2 + moves[:, 2], minlength=162
    ).double()
    assert len(counts) == 162
    assert ((counts - 100) ** 2 / 100).sum() < 161 + 6 * math.sqrt(
        2 * 161
    )  # chi-squared, six deviations
