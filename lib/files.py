"""Where data and runs live on this machine, and how a file is written whole or not at all."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
# where data/ lies: in the project's folder, or here, where the packages alone are installed
BASE = HOME if (HOME / "pyproject.toml").exists() else Path.cwd()


class StorageError(OSError):
    """The disk would not take a file; nothing half-written is left, and what was there stays."""


def data_root() -> Path:
    """Folder of the image sets: ``$SPARSITY_DATA``, or ``data/`` of this repository."""
    return Path(os.environ.get("SPARSITY_DATA") or BASE / "data").expanduser()


def store_root() -> Path:
    """Folder of the run store: ``$SPARSITY_RUNS``, or ``data/runs/`` of this repository."""
    return Path(os.environ.get("SPARSITY_RUNS") or BASE / "data" / "runs").expanduser()


def write_atomic(path: Path, content: bytes, sync: bool = True) -> None:
    """Write ``content`` to ``path``: a reader, or a crash at any time, sees all of it or none.

    Without ``sync``, which waits for the disk, a power cut may leave a part of it.
    Raises ``StorageError`` with place and size where the disk is full, over quota or not writable.
    """
    partial = _partial(path.parent, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise _refused(f"{len(content) / 2**20:.1f} MiB to {path}", error) from error
    finally:
        with contextlib.suppress(OSError):  # gone already, or its folder could not be made
            partial.unlink()


@contextlib.contextmanager
def whole_folder(path: Path, last: str) -> Iterator[Path]:
    """A folder to write into, whose files come to ``path`` when the block ends well, or not at all.

    A new folder appears at once. In one that is there each file takes its place; the ``last``,
    by which a reader knows that all are there, is taken away before and comes at the end.
    Raises ``StorageError`` where ``path`` cannot be written to.

    >>> import tempfile
    >>> there = Path(tempfile.mkdtemp()) / "new"
    >>> with whole_folder(there, "all.txt") as folder:
    ...     _ = (folder / "all.txt").write_text("every cell ran")
    >>> [file.name for file in there.iterdir()]
    ['all.txt']
    """
    path = path.resolve()
    partial = _partial(path if path.is_dir() else path.parent, path)
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.is_dir():
            (path / last).unlink(missing_ok=True)
            for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
                os.replace(file, path / file.name)
        else:
            partial.rename(path)
    except OSError as error:
        raise _refused(str(path), error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(folder, path):
    return folder / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"


def _refused(what, error):
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full" if full else (error.strerror or str(error))
    return StorageError(
        error.errno,
        f"could not write {what}: {reason}. What was there before is intact. Free some space, or "
        "point SPARSITY_RUNS (runs) or SPARSITY_DATA (image sets) at another disk, and run again",
    )
