"""Run notebooks through papermill, whatever happens: what was executed is on disk, and says truly how far it came."""
import hashlib
import json
import os
import site
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger
from traitlets.config import Config

from lib.config import ROOT
from lib.runs.code import git_state
from lib.show.terminal import Screen

SOURCES = ROOT / "notebooks"
LONGEST = 80  # bytes of a folder for sockets: their own names in it may have 107 together with it, 103 on a Mac


class OwnKernel(AsyncKernelManager):
    """A kernel of the interpreter that runs this program, whatever this computer's kernel specifications name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        env = {"MPLBACKEND": "agg"}  # figures need no screen
        if "error" in os.environ.get("PYTHONWARNINGS", ""):  # jupyter's own would keep the kernel from ending
            env["PYTHONWARNINGS"] = ""
        if not os.access(os.path.expanduser("~"), os.W_OK):  # what it and matplotlib keep there goes with the kernel
            env |= {"HOME": os.path.dirname(self.connection_file), "PYTHONUSERBASE": site.getuserbase()}
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], env=env,
                          display_name="Python 3", language="python")


def run_notebook(name: str, output: Path, parameters: dict[str, Any], screen: Screen | None = None) -> str:
    """Execute notebooks/<name>.ipynb into `output`, with those `parameters` that its parameters cell has.

    What its cells print goes to `screen` as it comes. Returns "completed", "failed" (a cell raised) or "died" (the
    kernel did, killed for its memory perhaps); the notebook is on disk in each case, its cells marked accordingly.
    """
    # the notebook, not its path: papermill takes a path for a pattern, in which {name} is a parameter
    source = nbformat.read(SOURCES / f"{name}.ipynb", as_version=4)
    taken = {key: parameters[key] for key in papermill.inspect_notebook(source) if key in parameters}
    source.metadata["code"] = code_of(name)
    with tempfile.TemporaryDirectory(prefix="lab") as sockets, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jupyter's own affairs; the notebook's warnings are in the notebook
        # ports are picked first and bound later, so notebooks running side by side could take each other's
        files = os.name != "nt" and len(os.fsencode(sockets)) <= LONGEST
        connection = {"transport": "ipc", "ip": str(Path(sockets, "kernel"))} if files else {}
        connection["connection_file"] = str(Path(sockets, "kernel.json"))  # a home folder may be read-only
        try:
            papermill.execute_notebook(  # which writes in place, so it is given no output: the engine saves
                source, None, taken, engine_name="careful", save_to=output, kernel_name="python3",
                cwd=str(SOURCES), progress_bar=False, autosave_cell_every=60, iopub_timeout=60, stdout_file=screen,
                extra_arguments=["--IPKernelApp.log_level=50"],  # the kernel's own talk, when it is shut down
                config=Config({"NotebookClient": {"kernel_manager_class": OwnKernel},
                               "KernelManager": {"shutdown_wait_time": 120, **connection}}))
        except PapermillExecutionError:
            return "failed"
        except DeadKernelError:
            return "died"
        except (OSError, RuntimeError) as error:  # a full disk, or a kernel that does not start
            logger.error("%s: %s", name, error)
            return "failed"
    return "completed"


def code_of(name: str) -> dict[str, str | None]:
    """What a notebook executed now is made of: the commit, and the SHA-256 of what differs from it and of its cells."""
    state = git_state()
    cells = [cell.source for cell in nbformat.read(SOURCES / f"{name}.ipynb", as_version=4).cells]
    return {"commit": state["commit"], "changes": _sha256(state["diff"] or ""), "cells": _sha256(json.dumps(cells))}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_current(name: str, path: Path) -> bool:
    """Whether a notebook was executed to its end by the code that is here."""
    return is_complete(path) and nbformat.read(path, as_version=4).metadata.get("code") == code_of(name)


def is_complete(path: Path) -> bool:
    """Whether a notebook is there and was executed to its end."""
    return path.exists() and all(cell.metadata.get("papermill", {}).get("status") == "completed"
                                 for cell in nbformat.read(path, as_version=4).cells)
