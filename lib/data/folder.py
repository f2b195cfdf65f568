"""A folder of images as a data set that is never held whole: found, fingerprinted, decoded.

It is laid out like ImageNet: ``train/<class>/<image>`` and ``val/<class>/<image>``. Images are
decoded by threads as they are asked for, in that order: Pillow lets other threads run while it
decodes and scales, and no result depends on how many there are. Pixels travel as bytes and become
numbers on the device.
"""

import functools
import hashlib
import itertools as it
import math
import os
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import folder as layout
from torchvision.transforms import functional

from lib import files
from lib.data.images import CONSTANTS, DataError, ImageSet, require, require_count

PARTS = {"train": "train", "test": "val"}  # our name of a part -> its folder
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # PostScript would be run
PIXELS = 100_000_000  # of an image: decoded, it takes three times as many bytes
SIZE = 224  # sides of the images of ImageNet's networks, in pixels
SAMPLE = 256  # images of each part that are read whole, and whose bytes the fingerprint knows
AHEAD = 2  # batches that are decoded while one is at work
LIMIT = 4 << 30  # bytes of images that may be asked for as one tensor
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a random crop


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

    Images are files, known by their suffixes, and named from the part's folder on; what is hidden
    (a name that begins with a dot) is passed over. Raises ``DataError`` for a folder that is not
    there, no classes in it, or classes without any image, by name.
    """
    root = str(where / PARTS[part])

    def shown(path):
        image = path.lower().endswith(SUFFIXES) and "/." not in path.removeprefix(root)
        return image and os.path.isfile(path)  # reading from a pipe would wait for ever

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
    cannot be opened or have more than ``PIXELS``, or more examples than there are. A warning names
    images that lie elsewhere, behind links.
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
            with Image.open(x.where / name, formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise Image.DecompressionBombError
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
    inside = f"{x.where.resolve()}{os.sep}"
    away = [n for n in x.names if not os.path.realpath(x.where / n).startswith(inside)]
    if away:
        lie = f"{len(away)} images of {x.where} lie elsewhere, behind links: {_some(away)}"
        warnings.warn(lie, stacklevel=3)
    return found.values()


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# -- decoding ----------------------------------------------------------------------------------


def threads() -> int:
    """How many threads decode: ``$SPARSITY_DECODERS``, or one a core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = os.environ.get("SPARSITY_DECODERS") or str(cores)
    require(
        given.isdecimal() and int(given) > 0,
        f"SPARSITY_DECODERS is {given!r}: it is a number of threads, at least 1",
    )
    return int(given)


def cropped(image, size: int, seed: int):
    """A random part of a PIL ``image`` as ``size`` x ``size`` pixels, flipped in half of all cases.

    The part has 8% to 100% of the area, and sides in a proportion of 3:4 to 4:3 (Szegedy et al.
    2015, section 6). After ten draws that do not fit it is the largest central part of such a
    proportion. ``seed`` is this example's own.
    """
    rng = torch.Generator().manual_seed(seed)
    flip, *numbers = torch.rand(1 + 4 * TRIES, generator=rng, dtype=torch.float64).tolist()
    (full_width, full_height), logs = image.size, [math.log(r) for r in RATIO]
    for a, r, across, down in zip(*(numbers[k::4] for k in range(4)), strict=True):
        area = full_width * full_height * (AREA[0] + a * (AREA[1] - AREA[0]))
        ratio = math.exp(logs[0] + r * (logs[1] - logs[0]))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = int(across * (full_width - width + 1))
            top = int(down * (full_height - height + 1))
            break
    else:
        ratio = min(max(full_width / full_height, RATIO[0]), RATIO[1])
        width = min(full_width, round(full_height * ratio))
        height = min(full_height, round(full_width / ratio))
        left, top = (full_width - width) // 2, (full_height - height) // 2
    part = image.crop((left, top, left + width, top + height))
    part = part.resize((size, size), Image.Resampling.BILINEAR)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip < 0.5 else part


class Streamed:
    """The images of one part, float32 [N, 3, S, S] on a device: as much of a tensor as is needed.

    ``x[:n]`` are examples as one tensor, the last four of which are kept as bytes, so that a probe
    decodes its examples once; ``x.split(n)`` goes through all of them in batches. Both are central
    crops. Of ``batches``, in any order and with random crops, ``AHEAD + 1`` at most are in memory.
    Raises ``DataError`` with the name of an image that cannot be decoded.
    """

    def __init__(
        self, where: Path, names: Sequence[str], size: int, normalise: str = "none", device="cpu"
    ):
        self.where, self.names, self.size, self.device = where, names, size, torch.device(device)
        self.shape = torch.Size((len(names), 3, size, size))
        self.bytes = 3 * size * size * 4  # of an example
        self.mean, self.std = (
            torch.tensor(c, device=device).view(1, 3, 1, 1) for c in CONSTANTS[normalise]
        )
        self._kept = functools.lru_cache(maxsize=4)(self._decoded)
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def __getitem__(self, part: slice | torch.Tensor) -> torch.Tensor:
        """These examples as one tensor. Raises ``DataError`` for more than 4 GiB of them."""
        numbers = torch.arange(len(self), device=getattr(part, "device", None))[part].tolist()
        require(
            len(numbers) * self.bytes <= LIMIT,
            f"{len(numbers)} images of {self.size}x{self.size} pixels were asked for at once, "
            f"{len(numbers) * self.bytes / 2**30:.1f} GiB; ask for at most {LIMIT // self.bytes} "
            "(setting watch_examples, score_examples, held, flow_examples or examples)",
        )
        with self._lock:  # so that no two threads decode the same
            return self._ready(self._kept(tuple(numbers)))

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All examples in order, ``size`` at a time, as central crops."""
        return self.batches((index, None) for index in torch.arange(len(self)).split(size))

    def batches(
        self, wanted: Iterable[tuple[torch.Tensor, torch.Tensor | None]]
    ) -> Iterator[torch.Tensor]:
        """A tensor [B, 3, S, S] for each of ``wanted``.

        Those are indices int64 [B], and for random crops a seed for each, int64 [B].
        """
        waiting: deque = deque()
        with ThreadPoolExecutor(threads(), thread_name_prefix="decode") as pool:
            tasks = (
                pool.map(self.decode, index.tolist(), it.repeat(None) if s is None else s.tolist())
                for index, s in wanted
            )
            for task in it.chain(tasks, [None] * AHEAD):
                waiting.append(task)
                if len(waiting) > AHEAD:
                    yield self._ready(self._pixels(waiting.popleft()))

    def _decoded(self, numbers):
        with ThreadPoolExecutor(threads(), thread_name_prefix="decode") as pool:
            return self._pixels(pool.map(self.decode, numbers))

    def _pixels(self, images):
        """Bytes [B, S, S, 3]."""
        return torch.from_numpy(np.array([*images], np.uint8).reshape(-1, self.size, self.size, 3))

    def decode(self, number: int, seed: int | None = None) -> np.ndarray:
        """The example ``number``, bytes [S, S, 3]: a random crop by ``seed``, or the central one.

        For that the shorter side is scaled to 8/7 of S: 256 pixels for 224.
        """
        path = self.where / self.names[number]
        try:
            with Image.open(path, formats=FORMATS) as file:
                image = file.convert("RGB")
            if seed is None:
                whole = functional.resize(image, round(self.size * 8 / 7))
                return np.asarray(functional.center_crop(whole, self.size))
            return np.asarray(cropped(image, self.size, seed))
        except Exception as error:  # by the damage OSError, SyntaxError, ValueError, struct.error
            raise DataError(
                f"the image {path} cannot be decoded ({type(error).__name__}: {error}). Put a "
                "sound copy in its place and run again: finished runs are kept, and an interrupted "
                "one goes on from its last epoch"
            ) from error

    def _ready(self, pixels):
        # channels-last in memory, as it was read
        x = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        return x.sub_(self.mean).div_(self.std)
