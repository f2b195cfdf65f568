"""MNIST, CIFAR-10 and CIFAR-100 as files: found or downloaded, checked, and put into one order.

The order is that of a hash of each example's bytes: a file placed by hand and one downloaded give
the same subset of 1,000 examples, the same fingerprint, and so the same runs.
"""

import hashlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np

from lib import files
from lib.data.images import DataError, require

ATTEMPTS = 3
# image shape, classes, examples of the train and the test part, and the checksum of all of them,
# over the sorted hashes of the examples, so that their order does not matter
FORMS = {
    "mnist": ((28, 28), 10, 60_000, 10_000,
              "df96e7b15ff0bd6094e381b6b0b60883999f6b373a0054a538ca49ccbc043f83"),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000,
                "f389996f205fe2ecbaef1fb208674ae4af4b3446c8238b788ab871a6091e1920"),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000,
                 "00c54ec3524ee7fcda992ab6bfdf65f733c084a0c7f509cfcc00460020953cd1"),
}  # fmt: skip


def read(name: str, root: Path) -> dict[str, np.ndarray]:
    """The arrays x_train, y_train, x_test, y_test of ``name``.npz in ``root``, in canonical order.

    ``x_*`` uint8 [N, H, W] or [N, H, W, C], ``y_*`` int64 [N]. Raises ``DataError`` for a file that
    cannot be downloaded or read, or whose content is not what its name says.
    """
    path, again = root / f"{name}.npz", "delete it and place or download it again"
    if not path.exists():
        fetch(name, path)
    shape, classes, train, test, checksum = FORMS[name]
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in ("x_train", "y_train", "x_test", "y_test")}
    except Exception as error:
        raise DataError(f"{path} cannot be read as a data file ({error}); {again}") from error
    digests = ""
    for part, size in (("train", train), ("test", test)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        there = f"x_{part} is {x.dtype} {x.shape}, y_{part} is {y.dtype} {y.shape}"
        require(
            (x.shape, x.dtype, y.shape, y.dtype.kind in "iu")
            == ((size, *shape), np.uint8, (size,), True),
            f"{path}: {there}; {name!r} has uint8 {(size, *shape)} and integer labels {(size,)}",
        )
        require(
            y.min() >= 0 and y.max() < classes,
            f"{path}: y_{part} holds labels {y.min()} to {y.max()}; {name!r} has 0 to "
            f"{classes - 1}",
        )
        rows = [
            hashlib.blake2b(image.tobytes() + bytes([label]), digest_size=16).digest()
            for image, label in zip(x, y, strict=True)
        ]
        order = np.array(sorted(range(size), key=rows.__getitem__))
        arrays |= {f"x_{part}": x[order], f"y_{part}": y[order].astype(np.int64)}
        digests += hashlib.sha256(b"".join(sorted(rows))).hexdigest()
    digest = hashlib.sha256(digests.encode()).hexdigest()
    require(
        digest == checksum,
        f"{path}: its content has checksum {digest[:16]}..., not the {checksum[:16]}... of "
        f"{name!r}; {again}",
    )
    return arrays


def fetch(name: str, path: Path, pause: float = 2.0) -> None:
    """Download ``mnist``, ``cifar10`` or ``cifar100`` and write ``path`` atomically.

    torchvision checks each archive's checksum and knows MNIST's mirrors; a failed attempt is
    repeated after ``pause`` seconds, then twice that. Raises ``DataError``, saying where to put the
    file by hand, when all fail.
    """
    print(f"{path} is not there: downloading {name} ...", flush=True)
    buffer = io.BytesIO()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            np.savez(buffer, **_download(name))
            break
        except Exception as error:  # RuntimeError, URLError, HTTPError, zipfile's and OS errors
            if attempt == ATTEMPTS:
                raise DataError(
                    f"dataset {name!r} is not at {path} and could not be downloaded in {ATTEMPTS} "
                    f"attempts (last: {type(error).__name__}: {error}). Put a file with the arrays "
                    "x_train, y_train, x_test, y_test there (data/README.md describes it), or set "
                    "SPARSITY_DATA to the folder that holds it"
                ) from error
        time.sleep(pause * 2 ** (attempt - 1))
    files.write_atomic(path, buffer.getvalue())


def _download(name):
    from torchvision import datasets

    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("train", "test"):
            source = getattr(datasets, name.upper())(folder, train=part == "train", download=True)
            x, y = (np.asarray(of, dtype=np.uint8) for of in (source.data, source.targets))
            arrays |= {f"x_{part}": x, f"y_{part}": y}
    return arrays
