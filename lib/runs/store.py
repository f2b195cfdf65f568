"""Finished runs and interrupted cohorts on disk: whole or not at all, checked whenever they are read.

A run is one safetensors file named by its key: tensors, and as text its specification, its history and how it was
made. The header carries a checksum over all of it. Nothing is ever unpickled.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from lib import files


@dataclass(frozen=True)
class Finished:
    """A finished run: ``history`` is one dict per measured epoch, ``tensors`` the weights and the mask as flat rows.

    ``tensors`` holds "weights" [P], "buffers" [B] and "mask" (bool [P]); kept epochs add "weights@3" and the like,
    snapshots "weights@step500" with their own masks (see ``lib.training.mask_updates``).
    ``info`` says how it was made: density, divergence, device, versions, seconds.
    """

    key: str
    specification: dict
    history: list[dict]
    tensors: dict[str, torch.Tensor]
    info: dict


def _checksum(tensors, text):
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _pack(tensors, text):
    import safetensors.torch

    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(
        tensors, metadata={"text": text, "sha256": _checksum(tensors, text)}
    )


def _unpack(content: bytes):
    """(tensors, text) of a file's content; raises ``ValueError`` if it is not what was written."""
    from safetensors.torch import load as parse

    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        text, checksum = header["text"], header["sha256"]
        tensors = parse(content)
    except Exception as error:
        raise ValueError(f"it cannot be parsed ({type(error).__name__})") from error
    if _checksum(tensors, text) != checksum:
        raise ValueError("its checksum does not match its content")
    return tensors, text


class Store:
    """A folder of finished runs. Several processes may use one at a time."""

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root) if root else files.store_root()

    def path(self, key: str) -> Path:
        """Where the run ``key`` lies, or would lie."""
        return self.root / "finished" / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Finished | None:
        """The finished run, or None. A damaged file is said so, set aside and counts as missing."""
        found = self._read(self.path(key))
        if found is None:
            return None
        tensors, content = found
        return Finished(key, tensors=tensors, **content)

    def put(self, run: Finished) -> None:
        """Keep a finished run; if the store has it already, the earlier one stands. Raises ``StorageError``."""
        path = self.path(run.key)
        if path.exists():
            return
        text = json.dumps(
            {"specification": run.specification, "history": run.history, "info": run.info}
        )
        files.write_atomic(path, _pack(run.tensors, text))

    def has(self, key: str) -> bool:
        """Whether the run is there (its content is checked when it is read)."""
        return self.path(key).exists()

    # -- measurements ------------------------------------------------------------------------------------------------

    def measured(self, place: str) -> dict | None:
        """The values kept under ``place``, or None; a damaged file counts as missing and is measured again."""
        path = self.root / "measured" / place[:2] / f"{place}.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if hashlib.sha256(held["text"].encode()).hexdigest() == held["sha256"]:
                return json.loads(held["text"])["values"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        warnings.warn(
            f"the measurement {path.name} in the store is damaged. It is made again.", stacklevel=3
        )
        return None

    def keep_measured(self, place: str, content: dict) -> None:
        """Keep a measurement: JSON with its checksum. Raises ``StorageError``."""
        text = json.dumps(content)
        held = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text})
        files.write_atomic(self.root / "measured" / place[:2] / f"{place}.json", held.encode())

    # -- interrupted cohorts -------------------------------------------------------------------------------------

    def _checkpoint_path(self, cohort: str) -> Path:
        return self.root / "interrupted" / f"{cohort}.safetensors"

    def save_checkpoint(self, cohort: str, tensors: dict, content: dict) -> None:
        """Replace the state of the cohort ``cohort`` by this one."""
        files.write_atomic(self._checkpoint_path(cohort), _pack(tensors, json.dumps(content)))

    def checkpoint(self, cohort: str):
        """(tensors, content) of the last state saved, or None."""
        return self._read(self._checkpoint_path(cohort))

    def drop_checkpoint(self, cohort: str) -> None:
        """Forget the state: its runs are finished."""
        self._checkpoint_path(cohort).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------------

    def _read(self, path):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            tensors, text = _unpack(content)
            return tensors, json.loads(text)
        except ValueError as error:
            warnings.warn(
                f"{path.name} in the store is damaged: {error}. It is set aside and trained again.",
                stacklevel=3,
            )
            with contextlib.suppress(FileNotFoundError):  # another process has set it aside already
                path.rename(path.with_suffix(f".damaged-{int(time.time())}"))
            return None

    def lock(self, cohort: str):
        """A lock that one process at a time can hold; the kernel frees it when a process dies."""
        from filelock import FileLock

        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{cohort}.lock")

    def prepare(self) -> None:
        """Make the folder and clear what killed writers left; raise ``StorageError`` if it cannot be made or written to."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.StorageError(
                error.errno, f"the run store {self.root} cannot be made: {error.strerror}"
            ) from error
        if not os.access(self.root, os.W_OK):
            raise files.StorageError(
                13,
                f"the run store {self.root} is not writable; set SPARSITY_RUNS to another folder",
            )
        for partial in self.root.glob("**/.*.partial"):
            with contextlib.suppress(OSError):  # another process was faster
                if time.time() - partial.stat().st_mtime > 86_400:
                    partial.unlink()

    def ensure_room(self, need: int) -> None:
        """Raise ``StorageError`` now, rather than after the training, if ``need`` bytes would not fit."""
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise files.StorageError(
                28, f"the run store {self.root} has {free / 2**20:.0f} MiB free and these runs need about "
                f"{need / 2**20:.0f} MiB; free some space or set SPARSITY_RUNS to another disk",
            )  # fmt: skip
