"""Fetch an image set through torchvision, which verifies it, and write it in this project's layout."""

import io
import tempfile
import time
from pathlib import Path

import numpy as np

from lib import files
from lib.data.sets import DataError

ATTEMPTS = 3


def fetch(name: str, path: Path, pause: float = 2.0) -> None:
    """Download ``mnist``, ``cifar10`` or ``cifar100`` and write ``path`` atomically.

    torchvision checks each archive's checksum and knows MNIST's mirrors; a failed attempt is repeated after
    ``pause`` seconds, then twice that. Raises ``DataError``, saying where to put the file by hand, when all fail.
    """
    print(f"{path} is not there: downloading {name} ...", flush=True)
    failures = []
    for attempt in range(ATTEMPTS):
        try:
            arrays = _download(name)
            break
        except (
            Exception
        ) as error:  # torchvision raises RuntimeError, URLError, HTTPError, zipfile and OS errors
            failures.append(f"{type(error).__name__}: {error}")
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause * 2**attempt)
    else:
        raise DataError(
            f"dataset {name!r} is not at {path} and could not be downloaded in {ATTEMPTS} attempts "
            f"(last: {failures[-1]}). Put a file with the arrays x_train, y_train, x_test, y_test there "
            "(data/README.md describes it), or set SPARSITY_DATA to the folder that holds it"
        )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files.write_atomic(path, buffer.getvalue())


def _download(name):
    from torchvision import datasets

    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[
        name
    ]
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("train", "test"):
            source = kind(folder, train=part == "train", download=True)
            arrays[f"x_{part}"] = np.asarray(source.data, dtype=np.uint8)
            arrays[f"y_{part}"] = np.asarray(source.targets, dtype=np.uint8)
    return arrays
