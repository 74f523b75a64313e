"""Run notebooks through papermill, whatever happens: what was executed is on disk, and says truly how far it came."""
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger
from traitlets.config import Config

from lib.config import ROOT
from lib.show.terminal import Screen

SOURCES = ROOT / "notebooks"


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
