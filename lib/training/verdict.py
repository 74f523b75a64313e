"""When the loss over the whole text is measured, and what it decides."""
from collections.abc import Callable

import numpy as np

from lib.config import RunConfig
from lib.model.gpt import GPT
from lib.training.evaluation import CorpusLoss, corpus_loss
from lib.training.machine import Machine
from lib.training.progress import Progress


def is_measured(progress: Progress, config: RunConfig, text_tokens: int, last: bool) -> bool:
    """Whether the loss over the whole text is measured after a step: where the target may be reached, and after the
    last step.

    Not at the end of a run of less than an epoch: the pass would cost more than the training told.
    """
    promising = progress.expected_loss < config.target_loss and progress.tokens >= progress.next_pass
    return promising or (last and progress.tokens >= text_tokens)


def measure(model: GPT, tokens: np.ndarray, config: RunConfig, machine: Machine, last: bool,
            check: Callable[[], None]) -> tuple[CorpusLoss, CorpusLoss | None]:
    """The loss over the whole text (N,), and, where a run ends with it, that of windows moved by half their length.

    `check` is called before each batch and may raise to end it.
    """
    whole = corpus_loss(model, tokens, config.seq_len, config.batch_size, machine, check=check)
    if not last and not is_reached(whole.mean, config):
        return whole, None
    return whole, corpus_loss(model, tokens, config.seq_len, config.batch_size, machine, config.seq_len // 2, check)


def is_reached(loss: float | None, config: RunConfig) -> bool:
    """Whether a loss over the whole text, None where it was not measured, is below the target."""
    return loss is not None and loss < config.target_loss
