"""papermill's engine `careful`: what was executed is on disk, whatever happens, and says truly how far it came.

pyproject.toml names it to papermill (`papermill --engine careful`), which loads this module while it is being imported
itself: whoever wants it imports papermill first.
"""
import contextlib
import os
import re

import nbformat
from nbclient.exceptions import CellExecutionError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger
from papermill.utils import remove_args

from lib.config import ROOT, impersonal
from lib.files import write_whole

# What a carriage return overwrites: the line so far, unless the line ends right behind it
OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")


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
    """Merges what a cell prints while it runs, without naming folders of this computer, and marks a cell failed also
    where it was the kernel that died."""

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        for told in (content, content.get("data", {})):
            told |= {name: impersonal(text) for name, text in told.items() if name.startswith(("text", "evalue"))}
        if "traceback" in content:
            content["traceback"] = [impersonal(line) for line in content["traceback"]]
        return super().process_message(msg, cell, cell_index)

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
        self.shutdown_kernel = "immediate"  # it has nothing left to do, and would take three seconds for that


class CarefulEngine(NBClientEngine):
    """papermill's engine with the two above in place of its own."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, output_path=None, save_to=None, progress_bar=False, log_output=False,
                         autosave_cell_every=60, **kwargs):
        manager = CarefulManager(nb, output_path=save_to or output_path, progress_bar=progress_bar,
                                 log_output=log_output, autosave_cell_every=autosave_cell_every)
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
