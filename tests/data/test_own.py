"""Data sets of one's own: tensors, or a function that gives them; bad ones are refused."""

import numpy as np
import pytest
import torch

from lib.data import sets
from lib.registry import dataset


def arrays(shape=(3, 8, 8), classes=4, train=20, test=9, seed=0):
    stream = np.random.default_rng(seed)
    x, y = (f(train + test) for f in (lambda n: stream.normal(size=(n, *shape)), np.arange))
    return {
        "x_train": x[:train], "y_train": y[:train] % classes,
        "x_test": x[train:], "y_test": y[train:] % classes,
    }  # fmt: skip


@pytest.fixture
def hand_over():
    """A function that hands a set over as "mine" and loads it."""

    def loaded(parts, **options):
        sets.from_tensors("mine", **parts)
        return sets.load("mine", **options)

    yield loaded
    if "mine" in dataset:
        dataset.forget("mine")


@pytest.mark.parametrize("shape", [(12,), (8, 8), (1, 8, 8), (3, 8, 6)], ids=str)
@pytest.mark.parametrize("kind", [torch.tensor, np.array, lambda value: torch.tensor(value).half()])
def test_tensors_are_handed_over(hand_over, shape, kind):
    """In their order, as float32 on their device, images with a channel; labels as int64."""
    given = arrays(shape)
    parts = {k: kind(v) if k[0] == "x" else torch.tensor(v) for k, v in given.items()}
    found = hand_over(parts)
    assert found.shape == ((1, 8, 8) if shape == (8, 8) else shape)
    assert (found.name, found.classes, sets.size("mine")) == ("mine", 4, 20)
    for key, value in given.items():
        ours = getattr(found, key)
        if key[0] == "x":
            expected = torch.tensor(np.asarray(parts[key]).astype(np.float32))
            torch.testing.assert_close(ours, expected.view_as(ours), rtol=0, atol=0)
        else:
            assert ours.dtype == torch.int64
            assert ours.tolist() == value.tolist()
    part = sets.load("mine", train=7, test=3)
    assert torch.equal(part.x_train, found.x_train[:7])
    assert torch.equal(part.y_test, found.y_test[:3])
    with pytest.raises(sets.DataError, match="train_examples is 21; 'mine' has 1 to 20 train"):
        sets.load("mine", train=21)


@pytest.mark.parametrize(("kind", "largest"), [(np.uint8, 200), (np.int64, 16), (bool, 1)])
def test_whole_numbers_are_scaled(hand_over, kind, largest):
    """By the largest of the training part, the same whatever the cut."""
    given = arrays()
    for key in ("x_train", "x_test"):
        given[key] = (np.abs(given[key]) * 50 % (largest + 1)).astype(np.uint8)
    given["x_train"][-1, 0, 0, 0] = largest
    parts = given | {key: given[key].astype(kind) for key in ("x_train", "x_test")}
    found = hand_over(parts, train=5)
    torch.testing.assert_close(found.x_train, torch.tensor(given["x_train"][:5]) / largest)


def test_the_fingerprint_is_of_the_content(hand_over):
    """Under whichever name and by whatever; another pixel, label or treatment gives another."""
    given = arrays()
    first = hand_over(given).fingerprint

    def by_function():
        return tuple(torch.tensor(part) for part in given.values())

    dataset(by_function, name="other", version="1")
    try:
        assert sets.load("other").fingerprint == first
    finally:
        dataset.forget("other")
    prints = {first, hand_over(given, normalise="channel").fingerprint}
    for key in given:
        changed = {k: v.copy() for k, v in given.items()}
        changed[key].flat[0] = changed[key].flat[1]
        if key[0] == "y":
            changed[key] = changed[key][::-1].copy()
        prints.add(hand_over(changed).fingerprint)
    assert len(prints) == 6
    assert hand_over(given).fingerprint == first


def test_normalisation(hand_over):
    """By channel, like that of the project's own sets."""
    found = hand_over(arrays(), normalise="channel")
    torch.testing.assert_close(found.x_train.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.x_train.std((0, 2, 3)), torch.ones(3))
    assert found.black.shape == (3,)


def put(key, change):
    """Parts with one of them changed."""
    parts = arrays()
    return parts | {key: change(parts[key].copy())}


def spoilt(value, index, new):
    value[index] = new
    return value


REFUSED = [
    (("x_train", lambda x: spoilt(x, (0, 0, 0, 0), np.nan)), r"x_train .*holds NaN or infinities"),
    (("x_test", lambda x: spoilt(x, (0, 0, 0, 0), np.inf)), r"x_test .*holds NaN or infinities"),
    (("x_test", lambda x: spoilt(x, (0, 0, 0, 0), 1e300)), r"x_test .*holds NaN or infinities"),
    (
        ("x_train", lambda x: x.transpose(0, 2, 3, 1)),
        r"x_train .*the channels must come first: \[N",
    ),
    (("x_train", lambda x: x[:0]), r"x_train is float64 \(0, 3, 8, 8\); .*and some"),
    (("x_test", lambda x: x[:0]), r"x_test is float64 \(0, 3, 8, 8\); .*and some"),
    (
        ("x_train", lambda x: x[:, 0, 0, 0]),
        r"x_train is float64 \(20,\); it must be numbers \[N, D",
    ),
    (("x_train", lambda x: x.astype(str)), r"x_train is <U.* it must be numbers"),
    (("x_train", lambda x: x.astype(complex)), r"x_train is complex128 .* it must be numbers"),
    (("x_test", lambda x: x[:, :1]), r"x_test .*\(9, 1, 8, 8\); x_train is \(20, 3, 8, 8\): all"),
    (("y_train", lambda y: y[:-1]), r"y_train is int64 \(19,\); it must be 20 labels"),
    (("y_test", lambda y: y[:, None]), r"y_test is int64 \(9, 1\); it must be 9 labels"),
    (("y_train", lambda y: y.astype(float)), r"y_train is float64 \(20,\); it must be 20 labels"),
    (("y_train", lambda y: y + 1), r"y_test .*known from y_train"),
    (("y_train", lambda y: y - 1), r"y_test .*known from y_train"),
    (("y_test", lambda y: y + 1), r"y_test .*known from y_train"),
    (("y_train", lambda y: spoilt(y, 0, 10**12)), r"its 5 labels must be 0 to 4, each of them"),
    (("y_train", lambda y: spoilt(y, 0, -1)), r"its 5 labels must be 0 to 4, each of them"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_bad_set_is_refused(hand_over, number):
    """At once, with the name of the set, the part, what it is and what it must be."""
    (key, change), says = REFUSED[number]
    with pytest.raises(sets.DataError, match=f"dataset 'mine': {says}|dataset 'mine': .*{says}"):
        hand_over(put(key, change))
    assert "mine" not in dataset


def test_a_function_that_gives_no_set(hand_over):
    """Four parts are asked for; a name of the project's own is not given away."""
    dataset(lambda: (1, 2, 3), name="mine", version="1")
    with pytest.raises(sets.DataError, match=r"'mine' must give \(x_train, y_train, x_test, y_te"):
        sets.load("mine")
    with pytest.raises(ValueError, match="dataset 'digits' is the project's own: choose another"):
        sets.from_tensors("digits", **arrays())
