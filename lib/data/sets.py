"""Image sets and the 12-bit task as tensors on the device.

A set is loaded whole, put into a canonical order, cut to size and given a fingerprint. The order of the image
sets is that of a hash of each example's bytes: a file placed by hand and one downloaded give the same subset of
1,000 examples, the same fingerprint, and so the same runs.
"""

import functools
import hashlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from lib import files, registry, rng

NAMES = ("digits", "bits12", "mnist", "cifar10", "cifar100", "folder")
CONSTANTS = {  # mean and standard deviation of each channel, for pixels in [0, 1]
    "cifar10-code": (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),  # the released price code, for CIFAR-10 and CIFAR-100 alike
    "imagenet": (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),  # the gradient-flow study's code, and torchvision's networks
}
NORMALISATIONS = ("none", "channel", *CONSTANTS)
NOISES = ("symmetric", "flip")

_FORMS = {  # image shape, classes, examples of the train and of the test part
    "mnist": ((28, 28), 10, 60_000, 10_000),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
}


class DataError(ValueError):
    """A data set that is missing, malformed or too small; the message says what to do."""


@dataclass(frozen=True)
class Raw:
    """A whole set in canonical order: integer arrays, and the digest of its content whatever the order."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    digest: str


@dataclass(frozen=True)
class ImageSet:
    """Tensors on a device. ``x_*`` float32 [N, C, H, W] or [N, D], ``y_*`` int64 [N].

    ``fingerprint`` is a hash of exactly these examples; ``black`` [C] is the value of a zero pixel. Of a folder, ``x_*`` are
    ``folder.Streamed``: sliced, they give tensors.
    """

    name: str
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: int
    fingerprint: str
    black: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch."""
        return tuple(self.x_train.shape[1:])


def load(
    name,
    *,
    train=None,
    test=None,
    normalise="none",
    device="cpu",
    root=None,
    folder=None,
    image_size=None,
) -> ImageSet:
    """The set ``name``, its first ``train`` and ``test`` examples in canonical order (None: all), on ``device``.

    Pixels are scaled to [0, 1]; ``normalise`` is ``"none"``, ``"channel"`` (mean 0 and standard deviation 1 of each
    channel over the training examples in use), or one of ``CONSTANTS``. The set ``"folder"`` is that in ``folder``, with images
    of ``image_size`` pixels a side, and is never held whole: see ``lib.folders``, also for its fingerprint and errors.
    Raises ``DataError`` for an unknown name, a missing or malformed file, or more examples than there are.
    """
    if normalise not in NORMALISATIONS:
        raise DataError(
            f"normalise is {normalise!r}; it must be one of {', '.join(NORMALISATIONS)}"
        )
    if name == "folder":
        from lib.data import folder

        return folder.load(
            folder,
            train=train,
            test=test,
            normalise=normalise,
            size=image_size,
            device=device,
            root=root,
        )
    return _tensors(name, train, test, normalise, str(device), str(root or files.data_root()))


def size(name: str, folder: str | None = None) -> int:
    """How many training examples the set ``name`` has; ``"folder"`` is that in ``folder``."""
    if name == "folder":
        from lib.data import folder

        return folder.size(folder)
    return _FORMS[name][2] if name in _FORMS else len(read(name, str(files.data_root())).y_train)


@functools.lru_cache(maxsize=2)
def _tensors(name, train, test, normalise, device, root) -> ImageSet:
    raw = read(name, root)
    parts = {}
    for part, count in (("train", train), ("test", test)):
        x, y = getattr(raw, f"x_{part}"), getattr(raw, f"y_{part}")
        if count is not None and not 1 <= count <= len(x):
            raise DataError(
                f"{part}_examples is {count}; {name!r} has 1 to {len(x)} {part} examples"
            )
        parts[f"x_{part}"], parts[f"y_{part}"] = x[:count], y[:count]
    print_of = hashlib.blake2b(normalise.encode(), digest_size=16)
    for key, array in parts.items():
        print_of.update(
            f"{key}{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()
        )
    scale = 255 if name in _FORMS else float(raw.x_train.max())
    tensors = {}
    for key, array in parts.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if key.startswith("x"):
            tensor = tensor.float() / scale
            if tensor.dim() == 3:
                tensor = tensor.unsqueeze(1)
            elif (
                tensor.dim() == 4
            ):  # stored [N, H, W, C]: a view [N, C, H, W] is channels-last for free
                tensor = tensor.permute(0, 3, 1, 2)
        tensors[key] = tensor.to(device)
    tensors["black"] = _normalise(tensors, normalise)
    return ImageSet(name=name, classes=raw.classes, fingerprint=print_of.hexdigest(), **tensors)


def _normalise(tensors, how) -> torch.Tensor:
    """Shift and scale both parts in place of what they were; returns the value of black [C]."""
    x = tensors["x_train"]
    channels = x.shape[1] if x.dim() == 4 else 1
    shape = (1, channels) + (1,) * (x.dim() - 2)
    if how == "none":
        return x.new_zeros(channels)
    if how in CONSTANTS:
        if channels != 3:
            raise DataError(f"normalise={how!r} is for images of three channels")
        mean, std = (torch.tensor(c, device=x.device).view(shape) for c in CONSTANTS[how])
    else:
        axes = [d for d in range(x.dim()) if x.dim() < 4 or d != 1]
        mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
    for key in ("x_train", "x_test"):
        tensors[key] = (tensors[key] - mean) / std
    return (-mean / std).flatten()


@functools.lru_cache(maxsize=4)
def read(name: str, root: str) -> Raw:
    """The whole set ``name`` as stored, checked; see ``load`` for what it raises."""
    if name not in NAMES:
        raise DataError(f"dataset {name!r} is unknown; there are {', '.join(NAMES)}")
    if name in ("digits", "bits12"):
        return _embedded(name)
    path = Path(root) / f"{name}.npz"
    if not path.exists():
        from lib.data import download

        download.fetch(name, path)
    return _canonical(name, path)


def _embedded(name):
    from sklearn.model_selection import train_test_split

    if (
        name == "bits12"
    ):  # 80/20 and the seed 42, as the price study's code splits its synthetic set
        (x, y), train = bits12(), 0.8
    else:  # 1,000 to train on and 797 to test on: enough of both to see gaps of a point
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y, train = digits.images.astype(np.uint8), digits.target, 1000
    x_train, x_test, y_train, y_test = train_test_split(
        x, y.astype(np.int64), train_size=train, stratify=y, random_state=42
    )
    return Raw(x_train, y_train, x_test, y_test, int(y.max()) + 1, "")


def bits12() -> tuple[np.ndarray, np.ndarray]:
    """The 12-bit task of the information-bottleneck literature (Shwartz-Ziv & Tishby 2017), all 4,096 patterns.

    The bits are the vertices of an icosahedron and the label is invariant under its symmetries: a function of the
    number n of set bits, of the edges e and of the antipodal pairs a among them. Returns x uint8 [4096, 12] in
    counting order and y int64 [4096], of which 2,118 are ones.
    """
    golden = (1 + 5**0.5) / 2
    vertices = np.array(
        [
            np.roll((0, one, phi), turn)
            for turn in range(3)
            for one in (1, -1)
            for phi in (golden, -golden)
        ]
    )
    dots = vertices @ vertices.T  # golden between neighbours, -(golden^2 + 1) between antipodes
    edges = [p for p in combinations(range(12), 2) if abs(dots[p] - golden) < 1e-9]
    antipodes = [p for p in combinations(range(12), 2) if abs(dots[p] + golden**2 + 1) < 1e-9]
    x = ((np.arange(4096)[:, None] >> np.arange(12)) & 1).astype(np.uint8)
    n = x.sum(1)
    e = sum(x[:, i] * x[:, j] for i, j in edges)
    a = sum(x[:, i] * x[:, j] for i, j in antipodes)
    y = np.select(
        [n <= 4, n == 5, n == 6, n == 7],
        [n < 0, e == 7, (e >= 7) | ((e == 6) & (a == 0)), ~((e == 8) & (a == 2))],
        default=True,
    )
    return x, y.astype(np.int64)


def _canonical(name, path) -> Raw:
    """Read, check and order a file of the layout that data/README.md describes."""
    shape, classes, *sizes = _FORMS[name]
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in ("x_train", "y_train", "x_test", "y_test")}
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a data file ({error}); delete it and place or download it again"
        ) from error
    digests = []
    for part, size in zip(("train", "test"), sizes, strict=True):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.shape != (size, *shape) or x.dtype != np.uint8:
            raise DataError(
                f"{path}: x_{part} is {x.dtype} {x.shape}; {name!r} has uint8 {(size, *shape)}"
            )
        if y.shape != (size,) or not np.issubdtype(y.dtype, np.integer):
            raise DataError(
                f"{path}: y_{part} is {y.dtype} {y.shape}; {name!r} has integer labels of shape {(size,)}"
            )
        if y.min() < 0 or y.max() >= classes:
            raise DataError(
                f"{path}: y_{part} holds labels {y.min()} to {y.max()}; {name!r} has 0 to {classes - 1}"
            )
        y = y.astype(np.int64)
        rows = [
            hashlib.blake2b(image.tobytes() + bytes([label]), digest_size=16).digest()
            for image, label in zip(x, y, strict=True)
        ]
        order = np.array(sorted(range(size), key=rows.__getitem__))
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x[order], y[order]
        digests.append(hashlib.sha256(b"".join(sorted(rows))).hexdigest())
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    if digest != files.DIGESTS[name]:
        raise DataError(
            f"{path}: its content has checksum {digest[:16]}..., not the {files.DIGESTS[name][:16]}... of {name!r}; "
            "delete it and place or download it again"
        )
    return Raw(**arrays, classes=classes, digest=digest)


def noisy_labels(
    labels, rate, classes, seed, kind="symmetric"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Label noise drawn from ``seed``: (given labels int64 [N], flipped bool [N]: where given differs from true).

    round(rate * N) examples are picked. ``kind="symmetric"``: each gets a label uniform over all classes, its own
    included, so that about rate * (1 - 1/C) are wrong (the price study's code); ``"flip"``: uniform over the others.
    Raises ``ValueError`` for a rate outside [0, 1] or an unknown kind.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"noise is {rate}; it must lie in [0, 1]")
    if kind not in NOISES:
        raise ValueError(f"noise_kind is {kind!r}; it must be one of {', '.join(NOISES)}")
    stream = rng.generator(seed, "noise", kind)
    labels = labels.cpu()
    picked = torch.randperm(len(labels), generator=stream)[: round(rate * len(labels))]
    given = labels.clone()
    if kind == "symmetric":
        given[picked] = torch.randint(classes, (len(picked),), generator=stream)
    else:
        given[picked] = (
            given[picked] + torch.randint(1, classes, (len(picked),), generator=stream)
        ) % classes
    return given, given != labels


class Cropper:
    """Pad-4 random crop and horizontal flip of whole batches on the device (He et al. 2016, section 4.2).

    The padding is black: ``black`` [C] is that value after normalisation. The padded set [N, H+8, W+8, C] stays on
    the device, so that a batch is one gather.
    """

    def __init__(self, images: torch.Tensor, black: torch.Tensor, pad: int = 4):
        n, channels, self.height, self.width = images.shape
        self.padded = black.expand(n, self.height + 2 * pad, self.width + 2 * pad, channels).clone()
        self.padded[:, pad:-pad, pad:-pad] = images.permute(0, 2, 3, 1)
        self.choices = 2 * pad + 1
        self.rows = torch.arange(self.height, device=images.device)
        self.columns = torch.arange(self.width, device=images.device)

    def draw(self, count: int, stream: torch.Generator) -> torch.Tensor:
        """One epoch's draws for ``count`` examples: int64 [count, 3] of row offset, column offset, flip."""
        offsets = torch.randint(self.choices, (count, 2), generator=stream)
        return torch.cat((offsets, torch.randint(2, (count, 1), generator=stream)), 1)

    def __call__(self, index: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """The examples ``index`` [B], each moved by its row of ``draw`` [B, 3]: [B, C, H, W], channels-last."""
        rows = draw[:, :1] + self.rows
        columns = draw[:, 1:2] + torch.where(draw[:, 2:] == 1, self.columns.flip(0), self.columns)
        return self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(
            0, 3, 1, 2
        )


registry.dataset._entries.update(dict.fromkeys(NAMES))
