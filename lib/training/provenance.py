"""What else determined a run, apart from its parameters. No host, user or environment variable is among it; what was
changed in the code is, as it was written."""
import platform
from importlib import metadata
from typing import Any

import torch

from lib.config import relative_to_root
from lib.runs.code import git_state
from lib.runs.folder import utc_now
from lib.text.corpus import Corpus
from lib.training.machine import Machine

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
