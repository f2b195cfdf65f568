"""A folder of images as a data set that is never held whole: found, checked and decoded as it is asked for.

It is laid out like ImageNet: ``train/<class>/<image>`` and ``val/<class>/<image>``. What is asked for is decoded by threads, because
Pillow lets other threads run while it decodes and scales. No result depends on how many there are: the training loop says which
examples it wants and with which draws, and gets them in this order. Pixels travel as bytes and become numbers on the device.
"""

import functools
import hashlib
import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from lib import files
from lib.data.sets import CONSTANTS, DataError, ImageSet

PARTS = {"train": "train", "test": "val"}  # our name of a part -> its folder
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
SIZE = 224  # sides of the images of ImageNet's networks, in pixels
SAMPLE = 256  # images of each part that are read whole before any training, and whose bytes the fingerprint knows
AHEAD = 2  # batches that are decoded while one is at work
TASK = 16  # images that a thread takes at a time
LIMIT = 4 << 30  # bytes of images that may be asked for as one tensor
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a random crop

# -- finding and checking ----------------------------------------------------------------------------------------------


def place(folder: str | None, root: str | Path | None = None) -> Path:
    """Where the set ``folder`` lies: an absolute path, or a name in the folder of the image sets (``lib.files.data_root``)."""
    if folder is None:
        raise DataError(
            "dataset is 'folder': give the parameter folder, the path of a folder that holds train/<class>/ and val/<class>/"
        )
    return Path(root or files.data_root()) / Path(folder).expanduser()


def listed(where: Path, part: str) -> dict[str, list[str]]:
    """Class -> names of its images, both sorted, of the part "train" or "test" (``val/``).

    What is neither a folder nor an image by its suffix is passed over. Raises ``DataError`` for a folder that is not there, no
    classes in it, or classes without any image, by name.
    """
    where = where / PARTS[part]
    if not where.is_dir():
        raise DataError(
            f"there is no folder {where}: a set of images holds train/<class>/ and val/<class>/ (data/README.md describes it)"
        )
    classes = {}
    for entry in sorted(
        (e for e in os.scandir(where) if e.is_dir() and not e.name.startswith(".")),
        key=lambda e: e.name,
    ):
        classes[entry.name] = sorted(
            e.name
            for e in os.scandir(entry.path)
            if e.name.lower().endswith(SUFFIXES) and e.name[0] != "."
        )
    if not classes:
        raise DataError(
            f"{where} holds no classes: a folder for each class is expected there, with the images of that class in it"
        )
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(classes)} classes in {where} hold no image: {_some(empty)}; "
            f"add images ({', '.join(SUFFIXES)}), or remove the class from train/ and val/"
        )
    return classes


def _both(where):
    found = {part: listed(where, part) for part in PARTS}
    for part, other in (("test", "train"), ("train", "test")):
        if lacking := sorted(set(found[part]) - set(found[other])):
            raise DataError(
                f"{where / PARTS[part]} holds classes that {PARTS[other]}/ lacks: {_some(lacking)}; both must hold the same"
            )
    return found


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def size(folder: str | None) -> int:
    """How many training images there are."""
    return sum(map(len, listed(place(folder), "train").values()))


def load(
    folder, *, train=None, test=None, normalise="none", size=None, device="cpu", root=None
) -> ImageSet:
    """The set in ``folder`` (see ``place``) as an ``ImageSet`` whose images are ``Streamed`` with sides of ``size`` pixels (None: 224).

    ``train``, ``test``, ``normalise`` as in ``data.load``; of normalisations there are those that need not see every image:
    ``"none"`` and the constants. The canonical order is that of a hash of each image's class and name, so that any first so many
    are of all classes; classes are numbered in their alphabetical order.

    The fingerprint is of the classes, of every image's name and the width and height in its header, and of the bytes of the first
    256 images of each part. Not of all bytes, because ImageNet has 150 GB of them, nor of file sizes: an image that is mended then
    leaves the runs their keys. So other images under the same names are noticed by their sides or by the 256, or not at all.

    Before anything is trained the header of every image in use is read, and those 256 are decoded. Raises ``DataError`` for what
    ``listed`` does, classes that are not in both parts, images that cannot be opened, or more examples than there are.
    """
    where = place(folder, root).resolve()
    if normalise not in ("none", *CONSTANTS):
        raise DataError(
            f"normalise is {normalise!r}; a folder, which is never held whole, has none, {', '.join(CONSTANTS)}"
        )
    if size is not None and size < 8:
        raise DataError(f"image_size is {size}; images have sides of at least 8 pixels")
    return _loaded(where, train, test, normalise, size or SIZE, str(device))


@functools.lru_cache(maxsize=2)
def _loaded(where, train, test, normalise, size, device):
    found = _both(where)
    classes = {name: number for number, name in enumerate(found["train"])}
    print_of = hashlib.blake2b("\n".join((normalise, str(size), *classes)).encode(), digest_size=16)
    tensors = {}
    for part, count in (("train", train), ("test", test)):
        names = [f"{label}/{name}" for label, images in found[part].items() for name in images]
        if count is not None and not 1 <= count <= len(names):
            raise DataError(
                f"{part}_examples is {count}; {str(where)!r} has 1 to {len(names)} {part} examples"
            )
        names.sort(key=lambda name: hashlib.blake2b(name.encode(), digest_size=16).digest())
        x = Streamed(where / PARTS[part], names[:count], size, normalise, device)
        for name, sides in zip(x.names, _headers(x), strict=True):
            print_of.update(f"{part}/{name}:{sides}\n".encode())
        for name in x.names[:SAMPLE]:
            print_of.update((x.where / name).read_bytes())
        x[
            : min(SAMPLE, LIMIT // x.bytes)
        ]  # decoded, so that no image that the fingerprint knows can be broken
        tensors[f"x_{part}"] = x
        tensors[f"y_{part}"] = torch.tensor(
            [classes[name.split("/")[0]] for name in x.names], device=device
        )
    black = (
        torch.zeros(3)
        if normalise == "none"
        else -torch.tensor(CONSTANTS[normalise][0]) / torch.tensor(CONSTANTS[normalise][1])
    )
    return ImageSet(
        name="folder",
        classes=len(classes),
        fingerprint=print_of.hexdigest(),
        black=black.to(device),
        **tensors,
    )


def _headers(x):
    """(width, height) of every image of ``x``; raises ``DataError`` that names those that cannot be opened."""

    def sides(name):
        try:
            with _open(x.where / name) as image:
                image.verify()  # checks what can be checked without decoding: a PNG's checksums, nothing of a JPEG
                return image.size
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads()) as pool:
        found = list(pool.map(sides, x.names, chunksize=256))
    broken = [
        f"{name} ({type(error).__name__})"
        for name, error in zip(x.names, found, strict=True)
        if isinstance(error, Exception)
    ]
    if broken:
        raise DataError(
            f"{len(broken)} of the {len(found)} images in {x.where} cannot be opened: {_some(broken)}; mend or remove them"
        )
    return found


def _open(path):
    from PIL import Image

    return Image.open(path)


# -- decoding ----------------------------------------------------------------------------------------------------------


def threads() -> int:
    """How many threads decode: ``$SPARSITY_DECODERS``, or one for each core that this process may use."""
    given = os.environ.get("SPARSITY_DECODERS") or str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    if not given.isdecimal() or int(given) < 1:
        raise DataError(f"SPARSITY_DECODERS is {given!r}: it is a number of threads, at least 1")
    return int(given)


def centred(image, size: int):
    """The central ``size`` x ``size`` pixels of a PIL ``image`` whose shorter side is scaled to 8/7 of it (256 for 224)."""
    from PIL import Image

    shorter = round(size * 8 / 7)
    width, height = (int(shorter * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + size, top + size)
    )


def cropped(image, size: int, seed: int):
    """A random part of a PIL ``image`` scaled to ``size`` x ``size`` and flipped in half of all cases; ``seed`` is this example's own.

    The part has 8% to 100% of the area, and sides in a proportion of 3:4 to 4:3 (Szegedy et al. 2015, section 6). After ten draws
    that do not fit it is the largest central part of such a proportion.
    """
    from PIL import Image

    rng = torch.Generator().manual_seed(seed)
    flip, *numbers = torch.rand(1 + 4 * TRIES, generator=rng, dtype=torch.float64).tolist()
    (full_width, full_height), logs = image.size, [math.log(r) for r in RATIO]
    for a, r, across, down in zip(*(numbers[k::4] for k in range(4)), strict=True):
        area, ratio = (
            full_width * full_height * (AREA[0] + a * (AREA[1] - AREA[0])),
            math.exp(logs[0] + r * (logs[1] - logs[0])),
        )
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left, top = (
                int(across * (full_width - width + 1)),
                int(down * (full_height - height + 1)),
            )
            break
    else:
        ratio = min(max(full_width / full_height, RATIO[0]), RATIO[1])
        width, height = (
            min(full_width, round(full_height * ratio)),
            min(full_height, round(full_width / ratio)),
        )
        left, top = (full_width - width) // 2, (full_height - height) // 2
    part = image.crop((left, top, left + width, top + height)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip < 0.5 else part


class Streamed:
    """The images of one part, float32 [N, 3, S, S] on a device, decoded whenever they are asked for: so much of a tensor as is needed.

    ``x[:n]`` are examples as one tensor, which a few slices keep as bytes, so that a probe decodes its examples once; ``x.split(n)``
    goes through all of them in batches. Both are central crops. ``batches`` gives any examples in any order, with random crops.
    No more than ``AHEAD + 1`` batches are in memory. Raises ``DataError`` with the name of an image that cannot be decoded.
    """

    def __init__(
        self, where: Path, names: list[str], size: int, normalise: str = "none", device="cpu"
    ):
        self.where, self.names, self.size, self.device = where, names, size, torch.device(device)
        self.shape = torch.Size((len(names), 3, size, size))
        self.bytes = 3 * size * size * 4  # of an example
        self.constants = [
            torch.tensor(c, device=device).view(1, 3, 1, 1) for c in CONSTANTS.get(normalise, ())
        ]
        self._kept, self._lock = {}, threading.Lock()

    def __len__(self):
        return len(self.names)

    def dim(self) -> int:
        """4, as a tensor's."""
        return len(self.shape)

    def __getitem__(self, part: slice | torch.Tensor) -> torch.Tensor:
        """These examples as one tensor. Raises ``DataError`` for more than 4 GiB of them."""
        index = torch.arange(len(self))[part]
        if len(index) * self.bytes > LIMIT:
            raise DataError(
                f"{len(index)} images of {self.size}x{self.size} pixels were asked for at once, {len(index) * self.bytes / 2**30:.1f} GiB; "
                f"ask for at most {LIMIT // self.bytes} (setting watch_examples, score_examples, held, flow_examples or examples)"
            )
        with self._lock:
            key = (part.start, part.stop, part.step) if isinstance(part, slice) else None
            if key is None or key not in self._kept:
                pixels = torch.cat(
                    [self._room(0), *self._decoded((i, None) for i in index.split(256))]
                )
                if key is None:
                    return self._ready(pixels)
                while len(self._kept) >= 4:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[key] = pixels
            return self._ready(self._kept[key])

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All examples in order, ``size`` at a time, as central crops."""
        return self.batches((index, None) for index in torch.arange(len(self)).split(size))

    def batches(
        self, wanted: Iterable[tuple[torch.Tensor, torch.Tensor | None]]
    ) -> Iterator[torch.Tensor]:
        """A tensor [B, 3, S, S] for each of ``wanted``: indices int64 [B], and for random crops a seed for each, int64 [B]."""
        return map(self._ready, self._decoded(wanted))

    def _decoded(self, wanted):
        """Bytes [B, S, S, 3] for each of ``wanted``, decoded up to ``AHEAD`` batches ahead."""
        pool, waiting = ThreadPoolExecutor(threads(), thread_name_prefix="decode"), deque()
        try:
            for index, seeds in wanted:
                room, seeds = (
                    self._room(len(index)),
                    [None] * len(index) if seeds is None else seeds.tolist(),
                )
                jobs = list(zip(room.numpy(), index.tolist(), seeds, strict=True))
                waiting.append(
                    (
                        room,
                        [
                            pool.submit(self._fill, jobs[k : k + TASK])
                            for k in range(0, len(jobs), TASK)
                        ],
                    )
                )
                if len(waiting) > AHEAD:
                    yield self._done(*waiting.popleft())
            while waiting:
                yield self._done(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _room(self, count):
        return torch.empty(
            count, self.size, self.size, 3, dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )

    @staticmethod
    def _done(room, tasks):
        for task in tasks:
            task.result()
        return room

    def _fill(self, jobs):
        for target, number, seed in jobs:
            target[:] = self.decode(number, seed)

    def decode(self, number: int, seed: int | None = None):
        """The example ``number`` as bytes [S, S, 3]: a central crop, or a random one of this ``seed``."""
        import numpy as np

        path = self.where / self.names[number]
        try:
            with _open(path) as image:
                image = image.convert("RGB")
            return np.asarray(
                centred(image, self.size) if seed is None else cropped(image, self.size, seed)
            )
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and others, by the kind of damage
            raise DataError(
                f"the image {path} cannot be decoded ({type(error).__name__}: {error}). Put a sound copy in its place and run again: "
                "finished runs are kept, and an interrupted one goes on from its last epoch"
            ) from error

    def _ready(self, pixels):
        x = (
            pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        )  # channels-last in memory, as it was read
        return (x - self.constants[0]).div_(self.constants[1]) if self.constants else x
