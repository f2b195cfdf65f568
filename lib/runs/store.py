"""Finished runs, measurements and interrupted cohorts on disk: whole, and what their names say.

Each is one safetensors file: tensors, and as text in its header all else, with the version of this
format, a checksum of the text, and in the text one of the tensors. So a history is read, and known
to be whole, without the weights; these are checked when they are first used. A file that cannot be
used (damaged, of another format, of another run than its name says) costs that entry alone: it is
said, set aside, and made anew. Nothing is ever unpickled.

What is left over goes when runs are carried out: partial files of killed writers after a day, what
was set aside after thirty, and checkpoints whose runs are all finished.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock, Timeout

from lib import files
from lib.specs.run import key_of

FORMAT = 2  # of these files: raised when one means something else than before
DAYS = {".*.partial": 1, "*.damaged-*": 30}  # how old leftovers become
UNUSABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, safetensors.SafetensorError,
)  # fmt: skip
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what ails this process, and no file


class DamageError(ValueError):
    """What is stored is not what was written."""


@dataclass(frozen=True)
class Finished:
    """A finished run: ``history`` is one dict per measured epoch; ``info`` says how it was made.

    ``info`` has density, device, versions, seconds, ...; ``load`` gives the tensors.
    """

    key: str
    specification: dict
    history: list[dict]
    info: dict
    load: Callable[[], Mapping[str, torch.Tensor]]

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """ "weights" [P], "buffers" [B] and "mask" (bool [P]) as flat rows, read when first used.

        Kept epochs add "weights@3" and the like, snapshots "weights@step500" with their own masks
        (see ``lib.training.mask_updates``). Raises ``DamageError`` if they are not as written.
        """
        return self.load()


def _read(path: Path) -> tuple[dict, Callable[[], dict[str, torch.Tensor]]]:
    """(content, how to read the tensors) of a file; both raise ``UNUSABLE`` if it is damaged."""
    with open(path, "rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        header = json.loads(file.read(min(length, size)))
    held = header.pop("__metadata__")
    if held.get("format") != str(FORMAT):
        raise DamageError(f"its format is {held.get('format')}, and not {FORMAT}")
    if held != _sealed(held["text"]):
        raise DamageError("the checksum of its text does not match")
    if size != 8 + length + max((row["data_offsets"][1] for row in header.values()), default=0):
        raise DamageError("it has another length than it was written with")
    content = json.loads(held["text"])
    if "specification" in content and key_of(content["specification"]) != path.stem:
        raise DamageError("it is something else than its name says")
    checksum = content.pop("tensors")

    def load():
        tensors = safetensors.torch.load(path.read_bytes())
        if _checksum(tensors) != checksum:
            raise DamageError("the checksum of its tensors does not match")
        return tensors

    return content, load


def _sealed(text: str) -> dict[str, str]:
    """What stands in a file's header: the format, the ``text``, and a checksum of it."""
    return {
        "format": str(FORMAT), "text": text, "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, content: dict, tensors: Mapping[str, torch.Tensor], **how) -> None:
    rows = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = _sealed(json.dumps({**content, "tensors": _checksum(rows)}))
    files.write_atomic(path, safetensors.torch.save(rows, metadata=header), **how)


class Store:
    """A folder of finished runs. Several processes may use one at a time.

    >>> import tempfile
    >>> store, key = Store(tempfile.mkdtemp()), key_of({"seed": 0})
    >>> run = Finished(key, {"seed": 0}, [], {}, lambda: {"weights": torch.tensor([1.0, 0.0])})
    >>> store.put(run)
    >>> store.get(key).tensors["weights"]
    tensor([1., 0.])
    """

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root) if root else files.store_root()

    def path(self, name: str, kind: str = "finished") -> Path:
        """Where the run ``name`` lies, or would lie; and so for what is "measured", ..."""
        return Path(self.root, kind, name[:2], f"{name}.safetensors")

    def get(self, key: str) -> Finished | None:
        """The finished run, or None; its tensors are read when they are first used."""
        load = partial(self._tensors, key)
        return self._take(self.path(key), lambda content, _: Finished(key, load=load, **content))

    def _tensors(self, key):
        tensors = self._take(self.path(key), lambda _, load: load())
        if tensors is None:
            raise DamageError(f"the tensors of run {key} are lost: carry it out again")
        return tensors

    def finished(self, key: str) -> Finished:
        """The finished run; raises ``KeyError`` if the store lacks it."""
        found = self.get(key)
        if found is None:
            raise KeyError(f"run {key} is not in the store {self.root}: carry it out first")
        return found

    def put(self, run: Finished) -> None:
        """Keep a finished run; if the store has it, the earlier stands. Raises ``StorageError``."""
        content = {"specification": run.specification, "history": run.history, "info": run.info}
        if self.get(run.key) is None:
            _write(self.path(run.key), content, run.tensors)

    def has(self, key: str) -> bool:
        """Whether a file is there for the run (its content is checked when it is read)."""
        return os.path.exists(self.path(key))

    def measured(self, what: dict) -> dict | None:
        """The values kept for the measurement that ``what`` specifies (in JSON values), or None."""
        return self._take(self.path(key_of(what), "measured"), lambda content, _: content["values"])

    def keep_measured(self, what: dict, values: dict) -> None:
        """Keep the ``values`` of a measurement. Raises ``StorageError``.

        It does not wait for the disk: what a power cut damages is noticed, and measured again.
        """
        content = {"specification": what, "values": values}
        _write(self.path(key_of(what), "measured"), content, {}, sync=False)

    def save_checkpoint(self, cohort: str, tensors: dict, content: dict) -> None:
        """Replace the state of the cohort ``cohort`` by this one."""
        _write(self.path(cohort, "interrupted"), content, tensors)

    def checkpoint(self, cohort: str, check: Callable = lambda *state: state) -> tuple | None:
        """The last state saved as ``check(tensors, content)`` returns it; None where it raises."""
        path = self.path(cohort, "interrupted")
        return self._take(path, lambda content, load: check(load(), content))

    def drop_checkpoint(self, cohort: str) -> None:
        """Forget the state: its runs are finished."""
        self.path(cohort, "interrupted").unlink(missing_ok=True)

    def lock(self, cohort: str):
        """A lock that one process at a time can hold; says so if another has it now.

        The kernel frees it when a process dies.
        """
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{cohort}.lock")
        try:
            lock.acquire(timeout=1).lock.release()
        except Timeout:
            print("another process is training these runs: waiting for it ...", flush=True)
        return lock

    def _take(self, path: Path, of: Callable[[dict, Callable], Any]) -> Any:
        """``of(content, load)`` of a file, or None; one that cannot be used is set aside."""
        try:
            return of(*_read(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UNUSABLE as error:
            if getattr(error, "errno", None) in PASSING:
                raise
            reason = error if isinstance(error, DamageError) else f"it cannot be read ({error!r})"
        with contextlib.suppress(OSError):  # gone already, or the store cannot be written to
            path.rename(path.with_suffix(f".damaged-{time.time_ns()}"))
        warnings.warn(
            f"{path.name} in the store cannot be used: {reason}. It counts as missing, is set "
            "aside where that can be done, and made anew.",
            stacklevel=4,
        )
        return None

    def clear(self) -> None:
        """Remove what is left over, as far as that can be; see the head of this module."""
        with contextlib.suppress(OSError):  # another process was faster, or may write alone
            for path in self.root.glob("interrupted/*/*.safetensors"):
                runs = self._take(path, lambda content, _: [m["key"] for m in content["members"]])
                if runs is not None and all(map(self.has, runs)):
                    path.unlink()
            for pattern, days in DAYS.items():
                for path in self.root.rglob(pattern):
                    if time.time() - path.stat().st_mtime > 86_400 * days and path.is_file():
                        path.unlink()

    def prepare(self, need: int) -> None:
        """Make the folder, and sure of ``need`` bytes in it, before anything is trained.

        Raises ``StorageError`` if it cannot be made or written to, or has less room.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.StorageError(
                error.errno, f"the run store {self.root} cannot be made: {error.strerror}"
            ) from error
        if not os.access(self.root, os.W_OK):
            raise files.StorageError(
                errno.EACCES,
                f"the run store {self.root} is not writable; set SPARSITY_RUNS to another folder",
            )
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise files.StorageError(
                errno.ENOSPC,
                f"the run store {self.root} has {free / 2**20:.0f} MiB free and these runs need "
                f"about {need / 2**20:.0f} MiB; free some space or point SPARSITY_RUNS elsewhere",
            )
