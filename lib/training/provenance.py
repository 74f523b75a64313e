"""What else determined a run, apart from its parameters. No host, user or environment variable is among it; what was
changed in the code is, as it was written."""
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import torch

from lib.config import ROOT, relative_to_root
from lib.runs.folder import utc_now
from lib.text.corpus import Corpus
from lib.training.machine import Machine

LONGEST_DIFF = 1_000_000
PACKAGES = ("torch", "numpy", "tiktoken", "papermill", "nbconvert", "matplotlib", "pandas")


def provenance(corpus: Corpus, machine: Machine, floor: float) -> dict[str, Any]:
    """The text, the code and the machine of a run, as config.json records them."""
    return {
        "started": utc_now(),
        "corpus": {"file": relative_to_root(corpus.path), "sha256": corpus.sha256, "tokens": len(corpus.tokens),
                   "loss_floor": floor},
        "code": git_state(),
        "machine": {"device": machine.name(), "precision": machine.precision,
                    "threads": torch.get_num_threads(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
    }


def git_state() -> dict[str, Any]:
    """The commit that is checked out, whether files differ from it, and how those it knows do, as `git apply` takes it,
    but for notebooks, which may hold outputs and are in the run's folder as they ran. None for all three where this
    project is no git checkout, and for a difference of more than LONGEST_DIFF characters."""
    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, check=True)
            return done.stdout.decode("utf-8", "replace")
        except (OSError, subprocess.CalledProcessError):
            return None
    # ROOT may lie in a checkout of something else, whose commit is not this code's
    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if not top or not commit or not os.path.samefile(top.rstrip("\r\n"), ROOT):
        return dict.fromkeys(("commit", "dirty", "diff"))
    diff = git("diff", "--no-ext-diff", "--no-color", "--binary", "HEAD", "--", ".", ":(exclude)notebooks") or ""
    return {"commit": commit.strip(), "dirty": bool(git("status", "--porcelain")),
            "diff": diff if len(diff) <= LONGEST_DIFF else None}
