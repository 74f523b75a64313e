"""Checkpoints: whole and as they were written, or refused. Tensors and plain numbers only: loading never runs code."""
import errno
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from lib.config import InputError
from lib.files import Sealing, again_if_stale, is_intact, whole_file
from lib.runs.folder import RunFolder


def save_checkpoint(content: dict[str, Any], path: Path, predecessor: Path | None = None) -> None:
    """Write a checkpoint with its digest; an earlier one of that name stays until the new one is on the disk, and then
    becomes `predecessor`. Raises OSError, before anything is written, where the disk has no room for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, _bytes(content))
    with whole_file(path, predecessor) as file:
        sealing = Sealing(file)
        try:
            torch.save(content, sealing)
        except RuntimeError as error:  # torch's own, about an archive that it could not end after a failed write
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        sealing.seal()


class CheckpointWriter:
    """Writes checkpoints behind the training, which waits only while their tensors are copied, one set at a time."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=_step_back)
        self._writing: Future | None = None

    def write(self, checkpoints: list[tuple[dict[str, Any], Path, Path | None]]) -> None:
        """Copy contents and begin to save each at its path, with a predecessor or None; tensors that several of them
        share are copied once. Raises OSError where the checkpoints before these could not be saved."""
        self.settle()
        copies = {}
        self._writing = self._thread.submit(
            _save_all, [(_copied(content, copies), *paths) for content, *paths in checkpoints])

    def settle(self, wait: bool = True) -> None:
        """Raise the OSError of a writing that failed; by default after waiting for the end of the one under way."""
        if self._writing and (wait or self._writing.done()):
            try:
                self._writing.result()
            finally:
                if self._writing.done():  # an interrupt ends the wait, not the writing
                    self._writing = None


def _step_back() -> None:
    """Leave the cores to training, whose steps would otherwise take twice as long beside this thread."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(10, os.getpriority(os.PRIO_PROCESS, thread)))


def _save_all(checkpoints: list[tuple[dict[str, Any], Path, Path | None]]) -> None:
    for checkpoint in checkpoints:
        save_checkpoint(*checkpoint)


def _copied(content: Any, copies: dict[tuple, torch.Tensor]) -> Any:
    """The same nested dictionaries and lists with copies of their tensors in main memory; `copies` has those that
    were made before, so that several checkpoints share them."""
    if isinstance(content, torch.Tensor):
        key = content.data_ptr(), content.shape
        if key not in copies:
            copies[key] = content.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(content, dict):
        return {name: _copied(part, copies) for name, part in content.items()}
    if isinstance(content, list):
        return [_copied(part, copies) for part in content]
    return content


@again_if_stale
def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it. Raises InputError where it is missing, changed or none."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    if not is_intact(path):
        raise InputError(f"{path} is damaged, or not a checkpoint of this project: its digest does not fit")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a checkpoint that can be read: {str(error).splitlines()[0]}") from None


def load_first(paths: list[Path], say: Callable[[str], None]) -> tuple[dict[str, Any], Path]:
    """The first of several checkpoints that can be read, and its path; `say` is told why others were passed over.
    Raises InputError where none can."""
    for path in paths:
        try:
            return load_checkpoint(path), path
        except InputError as error:
            say(str(error))
    raise InputError(f"{paths[0].parent.parent} has no checkpoint that can be read: start a new run")


def best_weights(run: RunFolder) -> dict[str, Any]:
    """The best weights of a run, `model`, with the `step` they are of and its `mean_loss`, None where these are not
    known. The last weights where there is no best.pt yet, or where it is damaged, which is printed. Raises InputError
    where the run has saved nothing that can be read."""
    saved = [path for path in (run.best_checkpoint, *run.checkpoints()) if path.exists()]
    if not saved:
        raise InputError(f"{run.path} has not saved a model yet")
    state, path = load_first(saved, lambda reason: None)
    if path != saved[0]:
        print(f"{saved[0].name} of {run.path.name} cannot be read: these are the weights of {path.name}")
    return {"step": None, "mean_loss": None} | state.get("progress", {}) | state


def require_space_for_run(run: RunFolder, weights: int, moments: int) -> None:
    """Raise OSError where the disk has no room for what a run with so many bytes of weights, and so many moments of
    them, keeps: best.pt, which has no moments, last.pt, the one before, and the next one in the making."""
    folder = run.last_checkpoint.parent
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in (*run.checkpoints(), run.best_checkpoint) if path.exists())
    require_space(folder, (1 + 3 * (1 + moments)) * weights - there)


def require_space(folder: Path, size: int) -> None:
    """Raise OSError, saying what is missing, unless the disk of this folder has room for `size` bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size / 1e6:,.2f} MB are needed and "
                                    f"{free / 1e6:,.2f} MB free", str(folder))


def _bytes(content: Any) -> int:
    """The size of all tensors in nested dictionaries and lists."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return sum(map(_bytes, parts))
