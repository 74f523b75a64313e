"""Run notebooks through papermill, whatever happens: what was executed is on disk, and says truly how far it came."""
import contextlib
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger
from papermill.utils import remove_args
from traitlets.config import Config

from lib.config import ROOT
from lib.terminal import Screen
from lib.whole_file import write_whole

SOURCES = ROOT / "notebooks"
# What a carriage return overwrites: the line so far, unless the line ends right behind it
OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")


def run_notebook(name: str, output: Path, parameters: dict[str, Any], screen: Screen | None = None) -> str:
    """Execute notebooks/<name>.ipynb into `output`, with those `parameters` that its parameters cell has.

    What its cells print goes to `screen` as it comes. Returns "completed", "failed" (a cell raised) or "died" (the
    kernel did, killed for its memory perhaps); the notebook is on disk in each case, its cells marked accordingly.
    """
    source = SOURCES / f"{name}.ipynb"
    taken = {key: parameters[key] for key in papermill.inspect_notebook(str(source)) if key in parameters}
    with tempfile.TemporaryDirectory(prefix="lab") as sockets, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jupyter's own affairs; the notebook's warnings are in the notebook
        # ports are picked first and bound later, so notebooks running side by side could take each other's
        connection = {} if os.name == "nt" else {"transport": "ipc", "ip": str(Path(sockets, "kernel"))}
        try:
            papermill.execute_notebook(  # which writes in place, so it is given no output: the engine saves
                str(source), None, taken, engine_name="careful", save_to=output, kernel_name="python3",
                cwd=str(SOURCES), progress_bar=False, autosave_cell_every=60, iopub_timeout=60, stdout_file=screen,
                extra_arguments=["--IPKernelApp.log_level=50"],  # the kernel's own talk, when it is shut down
                config=Config({"KernelManager": {"shutdown_wait_time": 120, **connection}}))
        except PapermillExecutionError:
            return "failed"
        except DeadKernelError:
            return "died"
        except (OSError, RuntimeError) as error:  # a full disk, or a kernel that does not start
            logger.error("%s: %s", source.name, error)
            return "failed"
    return "completed"


def is_complete(path: Path) -> bool:
    """Whether a notebook is there and was executed to its end."""
    return path.exists() and all(cell.metadata.get("papermill", {}).get("status") == "completed"
                                 for cell in nbformat.read(path, as_version=4).cells)


class CarefulManager(NotebookExecutionManager):
    """Saves through a temporary file, and goes on when the disk does not take it; leaves cells never run `pending`."""

    def save(self, **kwargs) -> None:
        with contextlib.suppress(OSError):  # there may be room again at the end
            self._write()
        self.last_save_time = self.now()

    def notebook_complete(self, **kwargs) -> None:
        """Save for the last time; here OSError passes."""
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self._write()

    def _write(self) -> None:
        write_whole(nbformat.writes(self.nb) + "\n", self.output_path)


class CarefulClient(PapermillNotebookClient):
    """Merges what a cell prints while it runs, and marks a cell failed also where it was the kernel that died."""

    def output(self, outs, msg, display_id, cell_index):
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None and out.output_type == "stream" and len(outs) > 1 and outs[-1] is out:
            last = outs[-2]
            if last.output_type == "stream" and last.name == out.name:
                head, newline, line = last.text.rpartition("\n")
                last.text = head + newline + OVERWRITTEN.sub("", line + out.text)
                outs.pop()
        return out

    def papermill_execute_cells(self) -> None:
        for index, cell in enumerate(self.nb.cells):
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                break
            except BaseException as error:
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                what = f"{type(error).__name__}: {error}"
                cell.outputs.append(nbformat.v4.new_output("error", ename=type(error).__name__, evalue=str(error),
                                                           traceback=[what]))
                raise
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)


class CarefulEngine(NBClientEngine):
    """papermill's engine with the two above in place of its own."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, save_to, output_path=None, progress_bar=False, log_output=False,
                         autosave_cell_every=60, **kwargs):
        manager = CarefulManager(nb, output_path=save_to, progress_bar=progress_bar, log_output=log_output,
                                 autosave_cell_every=autosave_cell_every)
        manager.notebook_start()
        try:
            cls.execute_managed_notebook(manager, kernel_name, **kwargs)
        finally:
            manager.notebook_complete()
        return manager.nb

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=60, execution_timeout=None, **kwargs):
        kwargs = remove_args(["input_path", "timeout", "startup_timeout"], **kwargs)
        CarefulClient(nb_man, kernel_name=kernel_name, timeout=execution_timeout, startup_timeout=start_timeout,
                      log=logger, **kwargs).execute(env=os.environ | {"PYTHONPATH": _import_path()})


def _import_path() -> str:
    """What makes a kernel import this lib, also where the environment it runs in was set up for another checkout."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


papermill_engines.register("careful", CarefulEngine)

