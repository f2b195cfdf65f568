"""A folder of images as a data set that is never held whole: found, checked and fingerprinted.

It is laid out like ImageNet: ``train/<class>/<image>`` and ``val/<class>/<image>``. Its images are
decoded as they are asked for, see ``lib.data.decoding``.
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets import folder as layout

from lib import files
from lib.data.decoding import LIMIT, Streamed, threads
from lib.data.images import CONSTANTS, DataError, ImageSet, require, require_count

PARTS = {"train": "train", "test": "val"}  # our name of a part -> its folder
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
SIZE = 224  # sides of the images of ImageNet's networks, in pixels
SAMPLE = 256  # images of each part that are read whole, and whose bytes the fingerprint knows


def place(folder: str | None) -> Path:
    """Where the set ``folder`` lies: an absolute path, or a name in ``lib.files.data_root``."""
    require(
        folder,
        "dataset is 'folder': give the parameter folder, the path of a folder that holds "
        "train/<class>/ and val/<class>/",
    )
    return files.data_root() / Path(str(folder)).expanduser()


def listed(where: Path, part: str) -> tuple[list[str], list[tuple[str, int]]]:
    """(classes, (image, number of its class)) of the part "train" or "test" (``val/``).

    Images are known by their suffixes, and named from the part's folder on; what is hidden (a name
    that begins with a dot) is passed over. Raises ``DataError`` for a folder that is not there, no
    classes in it, or classes without any image, by name.
    """
    root = str(where / PARTS[part])

    def shown(path):
        return path.lower().endswith(SUFFIXES) and "/." not in path.removeprefix(root)

    try:
        classes = [name for name in layout.find_classes(root)[0] if not name.startswith(".")]
        numbers = {name: number for number, name in enumerate(classes)}
        found = layout.make_dataset(root, numbers, is_valid_file=shown)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{root} is no folder of <class>/<image>, as data/README.md describes it: {error} "
            f"(images end in {', '.join(SUFFIXES)})"
        ) from error
    return classes, [(path.removeprefix(f"{root}/"), number) for path, number in found]


@functools.lru_cache(maxsize=2)
def load(
    where: Path, train: int | None = None, test: int | None = None, normalise: str = "none",
    size: int | None = None, device: str = "cpu",
) -> ImageSet:  # fmt: skip
    """The set in ``where`` (see ``place``), ``Streamed``, with sides of ``size`` pixels (224).

    ``train``, ``test``, ``normalise`` as in ``sets.load``, but for ``"channel"``, which would have
    to see every image. The canonical order is that of a hash of each image's class and name, so
    that any first so many are of all classes; classes are numbered in their alphabetical order.

    The fingerprint is of the classes, of every image's name and the width and height in its header,
    and of the bytes of the first 256 images of each part, which are also decoded. Not of all bytes,
    because ImageNet has 150 GB of them, nor of file sizes, so that mending an image leaves the runs
    their keys: other images under the same names are noticed by their sides or those 256, or never.

    Raises ``DataError`` for what ``listed`` does, classes that are not in both parts, images that
    cannot be opened, or more examples than there are.
    """
    require(
        normalise in CONSTANTS,
        f"normalise is {normalise!r}; a folder, which is never held whole, has "
        f"{', '.join(CONSTANTS)}",
    )
    (classes, training), (others, testing) = (listed(where, part) for part in PARTS)
    for part, lacking in (("val", {*classes} - {*others}), ("train", {*others} - {*classes})):
        require(
            not lacking,
            f"{where} must hold the same classes in train/ and val/: {part}/ lacks "
            f"{_some(sorted(lacking))}",
        )
    size = size or SIZE
    print_of = hashlib.blake2b("\n".join((normalise, str(size), *classes)).encode(), digest_size=16)
    tensors: dict = {}
    for part, count, samples in (("train", train, training), ("test", test, testing)):
        require_count(part, count, len(samples), str(where))
        samples.sort(
            key=lambda sample: hashlib.blake2b(sample[0].encode(), digest_size=16).digest()
        )
        names, labels = zip(*samples[:count], strict=True)
        x = Streamed(where / PARTS[part], names, size, normalise, device)
        sides = zip(names, _headers(x), strict=True)
        print_of.update("".join(f"{part}/{name}:{side}\n" for name, side in sides).encode())
        print_of.update(b"".join((x.where / name).read_bytes() for name in names[:SAMPLE]))
        x[: min(SAMPLE, LIMIT // x.bytes)]  # no image that the fingerprint knows can be broken
        tensors |= {f"x_{part}": x, f"y_{part}": torch.tensor(labels, device=device)}
    black = ((0 - x.mean) / x.std).flatten()
    return ImageSet(
        "folder", **tensors, classes=len(classes), fingerprint=print_of.hexdigest(), black=black
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
    broken = [f"{n} ({type(e).__name__})" for n, e in found.items() if isinstance(e, Exception)]
    require(
        not broken,
        f"{len(broken)} of the {len(found)} images in {x.where} cannot be opened: {_some(broken)}; "
        "mend or remove them",
    )
    return found.values()


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
