"""Checkpoints: whole or not at all. Tensors and plain numbers only, so that loading one never runs code."""
import pickle
from pathlib import Path
from typing import Any

import torch

from lib.config import InputError
from lib.model import GPT, GPTConfig
from lib.run_folder import RunFolder
from lib.whole_file import whole_file


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; an earlier one of that name stays until the new one is on the disk."""
    with whole_file(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it. Raises InputError where it is missing or not one."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a checkpoint that can be read: {str(error).splitlines()[0]}") from None


def load_model(run: RunFolder) -> GPT:
    """The best weights of a run, in eval mode, on the processor; the last ones where there is no best.pt yet."""
    config, _ = run.read_config()
    model = GPT(GPTConfig(config.n_layer, config.n_head, config.n_embd, config.block_size))
    path = run.best_checkpoint if run.best_checkpoint.exists() else run.last_checkpoint
    model.load_state_dict(load_checkpoint(path)["model"])
    return model.eval()
