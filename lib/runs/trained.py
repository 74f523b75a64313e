"""A trained model to be used, from the folder of a run or from what lib.publish.export made of one."""
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lib.config import InputError, RunConfig
from lib.model.gpt import GPT, model_from
from lib.model.start import origin
from lib.runs.checkpoint import best_weights
from lib.runs.folder import RunFolder
from lib.runs.formats import in_todays_words
from lib.text.corpus import load_corpus, opening

WEIGHTS, FACTS = "model.safetensors", "run.json"
# GPT-2 was published with the weights of these layers the other way round, and transformers reads them so
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@dataclass(frozen=True)
class TrainedModel:
    """A model in eval mode on the processor, and what its run says of it."""

    model: GPT
    config: RunConfig
    facts: dict[str, Any]  # as config.json has them
    summary: dict[str, Any]  # of these weights: what was measured of later ones is None in it

    @property
    def reached(self) -> bool:
        """Whether these weights were measured to be below their run's target."""
        return self.summary["corpus_loss"] is not None and self.summary["corpus_loss"] < self.summary["target_loss"]

    @property
    def known(self) -> str:
        """From where these weights know their text, in words; empty where they do not, or nobody has measured it."""
        return self.summary.get("known") or ""  # runs of earlier versions do not tell

    @property
    def context(self) -> int:
        """Tokens that it may look back: positions beyond those it was trained on know nothing."""
        return self.config.seq_len

    @property
    def origin(self) -> str:
        """What weights its training began with."""
        return origin(self.config)

    def digest(self) -> str:
        """The SHA-256 of the weights, the same for those of a run and for what was exported of it."""
        digest = hashlib.sha256()
        for name, part in self.model.state_dict().items():
            digest.update(name.encode() + part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def text(self) -> np.ndarray | None:
        """The tokens it learned (N,); None where that text is not there. Makes the default text where it is missing."""
        try:
            corpus = load_corpus(self.config)
        except (InputError, OSError):  # also where the default text or its tokens cannot be written here
            return None
        return corpus.tokens if corpus.sha256 == self.facts["corpus"]["sha256"] else None

    def prompt(self) -> str:
        """What its samples continue; a line break where that was the beginning of a text that is not there."""
        if self.config.prompt:
            return self.config.prompt
        text = self.text()
        return "\n" if text is None else opening(text, self.context)


def open_model(path: Path) -> TrainedModel:
    """The model of a run, named by its folder or its best.pt, or of an exported folder. Raises InputError where there
    is none. Nothing that is read can execute code."""
    if (path / WEIGHTS).exists():
        return _exported(path)
    run = RunFolder(path.parent.parent if path.name == "best.pt" else path)
    config, facts = run.read_config()
    saved, summary = best_weights(run), run.read_summary()
    if saved["step"] != summary["step"]:
        summary |= {"step": saved["step"], "mean_loss": saved["mean_loss"], "corpus_loss": None, "shifted_loss": None,
                    "cut_losses": {}, "known": "",
                    "tokens": saved["step"] and saved["step"] * config.tokens_per_step, "loss": None, "epochs": None,
                    "elapsed_sec": None}
    return TrainedModel(model_from(saved["model"], config), config, facts, summary)


def _exported(folder: Path) -> TrainedModel:
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        config = RunConfig(**in_todays_words(facts["config"].pop("parameters")))
        weights = {name.removeprefix("transformer."): part for name, part in load_file(folder / WEIGHTS).items()}
        return TrainedModel(model_from(_turned(weights), config), config, facts["config"], facts["summary"])
    except Exception as error:  # of many kinds: the file may be anything
        raise InputError(f"{folder} is not a folder that lib.publish.export made, or is damaged: {error}") from None


def write_weights(model: GPT, folder: Path) -> None:
    """Write a model's weights as transformers' GPT2LMHeadModel names and turns them."""
    weights = {f"transformer.{name}": part for name, part in _turned(model.state_dict()).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _turned(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with the matrices of TRANSPOSED the other way round, which is its own inverse."""
    return {name: part.t().contiguous() if name.endswith(TRANSPOSED) else part.contiguous()
            for name, part in weights.items()}
