"""Data sets by name, as tensors on a device.

A set is a function under ``@dataset`` that gives (x_train, y_train, x_test, y_test), or tensors
handed over by ``from_tensors``. It is loaded whole, cut to size and given a fingerprint of its
content::

    @dataset
    def mine():
        return x_train, y_train, x_test, y_test

``x_*`` are [N, D], [N, H, W] or [N, C, H, W]; whole numbers are divided by the largest of the
training part, so that they lie in [0, 1], and floating-point ones stay as they are. ``y_*`` are
labels 0 to C-1. The first so many examples are those of the order in which they are given. Tensors
or arrays will do. A function is called once, until it is registered anew.
"""

import functools
import hashlib
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import files
from lib.data import archives
from lib.data.images import (
    NOISES,
    NORMALISATIONS,
    DataError,
    ImageSet,
    noisy_labels,
    normalised,
    require,
    require_count,
)
from lib.registry import dataset

__all__ = [
    "NOISES", "NORMALISATIONS", "DataError", "ImageSet",
    "bits12", "from_tensors", "load", "noisy_labels", "size",
]  # fmt: skip

PARTS = ("x_train", "y_train", "x_test", "y_test")


def load(
    name: str, *, train: int | None = None, test: int | None = None, normalise: str = "none",
    device: str | torch.device = "cpu", folder: str | None = None, image_size: int | None = None,
) -> ImageSet:  # fmt: skip
    """The set ``name``, its first ``train`` and ``test`` examples (None: all), on ``device``.

    Pixels are scaled to [0, 1] and then ``images.normalised`` over the examples in use. The set
    ``"folder"`` is that in ``folder``, with images of ``image_size`` pixels a side, and never held
    whole: see ``lib.data.folder``. Raises ``DataError`` for a missing or malformed set, or more
    examples than there are, and ``ValueError`` for an unknown name.

    >>> digits = load("digits", train=100, test=50)
    >>> digits.shape, digits.classes, len(digits.x_train)
    ((1, 8, 8), 10, 100)
    """
    require(
        normalise in NORMALISATIONS,
        f"normalise is {normalise!r}; it must be one of {', '.join(NORMALISATIONS)}",
    )
    if name == "folder":
        from lib.data import folder as folders

        where = folders.place(folder)
        return folders.load(where.resolve(), train, test, normalise, image_size, str(device))
    return _tensors(name, dataset[name], files.data_root(), train, test, normalise, str(device))


def size(name: str, folder: str | None = None) -> int:
    """How many training examples the set ``name`` has; ``"folder"`` is that in ``folder``."""
    if name == "folder":
        from lib.data import folder as folders

        return len(folders.listed(folders.place(folder), "train")[1])
    if name in archives.FORMS:
        return archives.FORMS[name][2]
    return len(_arrays(name, dataset[name], files.data_root())["y_train"])


def from_tensors(name: str, x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> None:
    """Hand tensors or arrays over as the data set ``name``; see the module for what they may be.

    Raises ``DataError`` for shapes that do not agree, numbers that are not finite, labels that are
    no whole numbers from 0 on, and empty parts, and ``ValueError`` for a name of the project's own.
    """

    def given():
        return x_train, y_train, x_test, y_test

    _sound(name, given())
    given.__module__ = "__main__"  # whatever calls: it is not the project's own
    dataset(given, name=name, version="tensors")  # its content is in the fingerprint


@functools.lru_cache(maxsize=2)
def _tensors(name, entry, root, train, test, normalise, device) -> ImageSet:
    whole, counts = _arrays(name, entry, root), {"train": train, "test": test}
    for part, count in counts.items():
        require_count(part, count, len(whole[f"y_{part}"]), name)
    cut = {key: array[: counts[key[2:]]] for key, array in whole.items()}
    print_of = hashlib.blake2b(normalise.encode(), digest_size=16)
    for key, array in cut.items():
        print_of.update(f"{key}{array.shape}{array.dtype}".encode() + array.tobytes())
    largest = 255 if name in archives.FORMS else max(whole["x_train"].max(), 1)
    scale = 1.0 if whole["x_train"].dtype.kind == "f" else float(largest)
    x_train, x_test = (_pixels(cut[key], scale).to(device) for key in ("x_train", "x_test"))
    x_train, x_test, black = normalised(x_train, x_test, normalise)
    y_train, y_test = (torch.tensor(cut[key], device=device) for key in ("y_train", "y_test"))
    classes = 1 + int(max(whole["y_train"].max(), whole["y_test"].max()))
    return ImageSet(name, x_train, y_train, x_test, y_test, classes, print_of.hexdigest(), black)


def _pixels(array, scale):
    """A view [N, C, H, W] of stored images [N, H, W, C] is channels-last for free."""
    x = torch.from_numpy(np.ascontiguousarray(array)).float() / scale
    x = x.movedim(-1, 1) if x.dim() == 4 else x
    return x.unsqueeze(1) if x.dim() == 3 else x


@functools.lru_cache(maxsize=4)
def _arrays(name, entry, root: Path) -> dict[str, np.ndarray]:
    """The whole set, images [N, D], [N, H, W] or [N, H, W, C]; if on disk, as it is in ``root``."""
    found = entry()
    return found if isinstance(found, dict) else _sound(name, found)


def _sound(name, found):
    """A set of one's own as arrays like those of the project's, checked."""
    require(
        isinstance(found, (tuple, list)) and len(found) == len(PARTS),
        f"dataset {name!r} must give ({', '.join(PARTS)}), and not {type(found).__name__}",
    )
    arrays = {
        key: np.asarray(part.detach().cpu() if isinstance(part, torch.Tensor) else part)
        for key, part in zip(PARTS, found, strict=True)
    }
    says = {k: f"dataset {name!r}: {k} is {a.dtype} {a.shape}; " for k, a in arrays.items()}
    labels = np.unique(arrays["y_train"])
    sound: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        require(
            x.ndim in (2, 3, 4) and x.size and x.dtype.kind in "biuf",
            says[f"x_{part}"] + "it must be numbers [N, D], [N, H, W] or [N, C, H, W], and some",
        )
        require(
            x.shape[1:] == arrays["x_train"].shape[1:],
            says[f"x_{part}"] + f"x_train is {arrays['x_train'].shape}: all images must be alike",
        )
        require(
            x.ndim < 4 or x.shape[1] in (1, 3) or x.shape[3] not in (1, 3),
            says[f"x_{part}"] + "the channels must come first: [N, C, H, W]",
        )
        with np.errstate(over="ignore"):
            x = x.astype({"f": np.float32, "b": np.uint8}.get(x.dtype.kind, x.dtype))
        require(np.isfinite(x).all(), says[f"x_{part}"] + "it holds NaN or infinities")
        require(
            y.shape == (len(x),) and y.dtype.kind in "iu" and np.isin(y, labels).all(),
            says[f"y_{part}"] + f"it must be {len(x)} labels, whole numbers known from y_train",
        )
        sound[f"x_{part}"] = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
        sound[f"y_{part}"] = y.astype(np.int64)
    require(
        labels[0] == 0 and labels[-1] == len(labels) - 1,
        says["y_train"] + f"its {len(labels)} labels must be 0 to {len(labels) - 1}, each of them",
    )
    return sound


@dataset
def digits() -> dict[str, np.ndarray]:
    """scikit-learn's digits: 1,000 to train on, 797 to test on: enough to see gaps of a point."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _split(found.images.astype(np.uint8), found.target, 1000)


dataset(lambda: _split(*bits12(), 0.8), name="bits12")  # 80/20, as the price study's code
for name in archives.FORMS:
    dataset(lambda name=name: archives.read(name, files.data_root()), name=name)


@dataset(name="folder")
def _folder():
    """Never held whole: ``load`` leaves it to ``lib.data.folder``."""


def _split(x, y, train):
    """Stratified, with the seed 42 of the price study's code."""
    from sklearn.model_selection import train_test_split

    x_train, x_test, y_train, y_test = train_test_split(
        x, y.astype(np.int64), train_size=train, stratify=y, random_state=42
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def bits12() -> tuple[np.ndarray, np.ndarray]:
    """The 12-bit task of the information-bottleneck literature (Shwartz-Ziv & Tishby 2017).

    All 4,096 patterns. The bits are the vertices of an icosahedron and the label is invariant under
    its symmetries: a function of the number n of set bits, of the edges e and of the antipodal
    pairs a among them. Returns x uint8 [4096, 12] in counting order and y int64 [4096], of which
    2,118 are ones.
    """
    golden = (1 + 5**0.5) / 2
    signs = [(one, phi) for one in (1, -1) for phi in (golden, -golden)]
    vertices = np.array([np.roll((0, *pair), turn) for turn in range(3) for pair in signs])
    dots = vertices @ vertices.T
    x = ((np.arange(4096)[:, None] >> np.arange(12)) & 1).astype(np.uint8)
    n = x.sum(1)
    e, a = (
        sum(
            x[:, i] * x[:, j] for i, j in combinations(range(12), 2) if abs(dots[i, j] - is_) < 1e-9
        )
        for is_ in (golden, -(golden**2) - 1)  # between neighbours, between antipodes
    )
    y = np.select(
        [n <= 4, n == 5, n == 6, n == 7],
        [n < 0, e == 7, (e >= 7) | ((e == 6) & (a == 0)), ~((e == 8) & (a == 2))],
        default=True,
    )
    return x, y.astype(np.int64)
