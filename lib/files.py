"""Where data and runs live on this machine, and how a file is written whole or not at all."""

import contextlib
import errno
import os
import uuid
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
# where data/ lies: in the project's folder, or here, where the packages alone are installed
BASE = HOME if (HOME / "pyproject.toml").exists() else Path.cwd()

# Checksums of the complete sets, over the sorted hashes of their examples, so that no order of the examples matters.
DIGESTS = {
    "mnist": "df96e7b15ff0bd6094e381b6b0b60883999f6b373a0054a538ca49ccbc043f83",
    "cifar10": "f389996f205fe2ecbaef1fb208674ae4af4b3446c8238b788ab871a6091e1920",
    "cifar100": "00c54ec3524ee7fcda992ab6bfdf65f733c084a0c7f509cfcc00460020953cd1",
}


class StorageError(OSError):
    """The disk would not take a file; nothing half-written is left, and what was there before is untouched."""


def data_root() -> Path:
    """Folder of the image sets: ``$SPARSITY_DATA``, or ``data/`` of this repository."""
    return Path(os.environ.get("SPARSITY_DATA") or BASE / "data").expanduser()


def store_root() -> Path:
    """Folder of the run store: ``$SPARSITY_RUNS``, or ``data/runs/`` of this repository."""
    return Path(os.environ.get("SPARSITY_RUNS") or BASE / "data" / "runs").expanduser()


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a crash at any point, sees the whole file or none of it.

    Raises ``StorageError`` with the place and the size where the disk is full, over quota or not writable.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else (error.strerror or str(error))
        raise StorageError(
            error.errno,
            f"could not write {len(content) / 2**20:.1f} MiB to {path}: {reason}. Earlier runs are intact. "
            "Free some space, or point SPARSITY_RUNS (runs) or SPARSITY_DATA (image sets) at another disk, and run again",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone already, or its folder could not be made
            partial.unlink()
