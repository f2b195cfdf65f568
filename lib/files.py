"""Where data and runs live on this machine, and how a file is written whole or not at all."""

import contextlib
import errno
import os
import uuid
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent


class StorageError(OSError):
    """The disk would not take a file; nothing half-written is left, and what was there before is untouched."""


def data_root() -> Path:
    """Folder of the image sets: ``$SPARSITY_DATA``, or ``data/`` of this repository."""
    return Path(os.environ.get("SPARSITY_DATA") or HOME / "data").expanduser()


def store_root() -> Path:
    """Folder of the run store: ``$SPARSITY_RUNS``, or ``data/runs/`` of this repository."""
    return Path(os.environ.get("SPARSITY_RUNS") or HOME / "data" / "runs").expanduser()


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
