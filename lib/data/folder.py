"""A folder of images as a data set that is never held whole: found, checked and fingerprinted.

It is laid out like ImageNet: ``train/<class>/<image>`` and ``val/<class>/<image>``. Its images are
decoded as they are asked for, see ``lib.data.decoding``.
"""

import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from lib import files
from lib.data.decoding import LIMIT, Streamed, threads
from lib.data.images import CONSTANTS, DataError, ImageSet, require, require_count

PARTS = {"train": "train", "test": "val"}  # our name of a part -> its folder
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
SIZE = 224  # sides of the images of ImageNet's networks, in pixels
SAMPLE = 256  # images of each part that are read whole, and whose bytes the fingerprint knows


def place(folder: str | None) -> Path:
    """Where the set ``folder`` lies: an absolute path, or a name in ``lib.files.data_root``."""
    if folder is None:
        raise DataError(
            "dataset is 'folder': give the parameter folder, the path of a folder that holds "
            "train/<class>/ and val/<class>/"
        )
    return files.data_root() / Path(folder).expanduser()


def listed(where: Path, part: str) -> dict[str, list[str]]:
    """Class -> names of its images, both sorted, of the part "train" or "test" (``val/``).

    What is neither a folder nor an image by its suffix is passed over. Raises ``DataError`` for a
    folder that is not there, no classes in it, or classes without any image, by name.
    """
    where = where / PARTS[part]
    require(
        where.is_dir(),
        f"there is no folder {where}: a set of images holds train/<class>/ and val/<class>/ "
        "(data/README.md describes it)",
    )
    classes = {
        label: sorted(
            name
            for name in os.listdir(where / label)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        )
        for label in sorted(os.listdir(where))
        if (where / label).is_dir() and not label.startswith(".")
    }
    require(
        classes,
        f"{where} holds no classes: a folder for each class is expected there, with the images of "
        "that class in it",
    )
    empty = [label for label, names in classes.items() if not names]
    require(
        not empty,
        f"{len(empty)} of the {len(classes)} classes in {where} hold no image: {_some(empty)}; "
        f"add images ({', '.join(SUFFIXES)}), or remove the class from train/ and val/",
    )
    return classes


def size(folder: str | None) -> int:
    """How many training images there are."""
    return sum(map(len, listed(place(folder), "train").values()))


def load(
    folder: str | None,
    train: int | None = None,
    test: int | None = None,
    normalise: str = "none",
    size: int | None = None,
    device: str = "cpu",
) -> ImageSet:
    """The set in ``folder`` (see ``place``), ``Streamed``, with sides of ``size`` pixels (224).

    ``train``, ``test``, ``normalise`` as in ``sets.load``; of normalisations there are those that
    need not see every image: ``"none"`` and the constants. The canonical order is that of a hash of
    each image's class and name, so that any first so many are of all classes; classes are numbered
    in their alphabetical order.

    The fingerprint is of the classes, of every image's name and the width and height in its header,
    and of the bytes of the first 256 images of each part. Not of all bytes, because ImageNet has
    150 GB of them, nor of file sizes: an image that is mended then leaves the runs their keys. So
    other images under the same names are noticed by their sides or by the 256, or not at all.

    Before anything is trained the header of every image in use is read, and those 256 are decoded.
    Raises ``DataError`` for what ``listed`` does, classes that are not in both parts, images that
    cannot be opened, or more examples than there are.
    """
    require(
        normalise in CONSTANTS,
        f"normalise is {normalise!r}; a folder, which is never held whole, has "
        f"{', '.join(CONSTANTS)}",
    )
    require(
        size is None or size >= 8, f"image_size is {size}; images have sides of at least 8 pixels"
    )
    return _loaded(place(folder).resolve(), train, test, normalise, size or SIZE, device)


@functools.lru_cache(maxsize=2)
def _loaded(where, train, test, normalise, size, device):
    found = {part: listed(where, part) for part in PARTS}
    for part, other in (("test", "train"), ("train", "test")):
        lacking = sorted(found[part].keys() - found[other].keys())
        require(
            not lacking,
            f"{where / PARTS[part]} holds classes that {PARTS[other]}/ lacks: {_some(lacking)}; "
            "both must hold the same",
        )
    classes = {label: number for number, label in enumerate(found["train"])}
    print_of = hashlib.blake2b("\n".join((normalise, str(size), *classes)).encode(), digest_size=16)
    tensors: dict = {}
    for part, count in (("train", train), ("test", test)):
        names = [f"{label}/{name}" for label, those in found[part].items() for name in those]
        require_count(part, count, len(names), str(where))
        names.sort(key=lambda name: hashlib.blake2b(name.encode(), digest_size=16).digest())
        x = Streamed(where / PARTS[part], names[:count], size, normalise, device)
        for name, sides in zip(x.names, _headers(x), strict=True):
            print_of.update(f"{part}/{name}:{sides}\n".encode())
        for name in x.names[:SAMPLE]:
            print_of.update((x.where / name).read_bytes())
        x[: min(SAMPLE, LIMIT // x.bytes)]  # no image that the fingerprint knows can be broken
        labels = [classes[name.split("/")[0]] for name in x.names]
        tensors |= {f"x_{part}": x, f"y_{part}": torch.tensor(labels, device=device)}
    mean, std = map(torch.tensor, CONSTANTS[normalise])
    return ImageSet(
        name="folder",
        classes=len(classes),
        fingerprint=print_of.hexdigest(),
        black=((0 - mean) / std).to(device),
        **tensors,
    )


def _headers(x):
    """(width, height) of every image of ``x``; ``DataError`` names those that cannot be opened."""

    def sides(name):
        try:
            with Image.open(x.where / name) as image:
                image.verify()  # what can be checked without decoding: PNG's checksums, not JPEG
                return image.size
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads()) as pool:
        found = dict(zip(x.names, pool.map(sides, x.names, chunksize=256), strict=True))
    errors = {name: type(e).__name__ for name, e in found.items() if isinstance(e, Exception)}
    broken = [f"{name} ({kind})" for name, kind in errors.items()]
    require(
        not broken,
        f"{len(broken)} of the {len(found)} images in {x.where} cannot be opened: {_some(broken)}; "
        "mend or remove them",
    )
    return found.values()


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
