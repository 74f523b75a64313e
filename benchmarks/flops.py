"""What a run's steps multiply: the FLOPs of its model and those of its optimiser, from its configuration.

    python benchmarks/flops.py docs/default_run [runs/NAME ...]          some seconds each

torch counts them, two for a multiplication and an addition of a matrix product and none for anything else, in steps of
this project's own, on tensors that have shapes but no numbers where that can be.
"""
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lib.config import RunConfig
from lib.model.gpt import new_model, shaped_model
from lib.runs.folder import RunFolder
from lib.text.corpus import Corpus, load_corpus
from lib.training.machine import Machine
from lib.training.sampled_softmax import FIRST_STEPS
from lib.training.step import TrainingStep


def flops(work: Callable[[], None]) -> int:
    """The FLOPs of what `work` does."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def step_flops(config: RunConfig, corpus: Corpus) -> tuple[int, int, int]:
    """The FLOPs of one of a run's first steps, of a later one, and of the optimiser in either."""
    frozen = config.optimizer == "sgd"  # then what is computed depends on the weights, and tensors need their numbers
    # the kernels of attention are not counted, plain products are
    with (contextlib.nullcontext() if frozen else FakeTensorMode(allow_non_fake_inputs=True),
          sdpa_kernel(SDPBackend.MATH)):
        model = new_model(config) if frozen else shaped_model(config)
        step = TrainingStep(model, corpus, config, Machine(torch.device("cpu"), None))
        first, later = flops(lambda: step(0)), flops(lambda: step(FIRST_STEPS))
        step.optimizers = []
        return first, later, later - flops(lambda: step(FIRST_STEPS))


def report(run: RunFolder) -> str:
    """The FLOPs of a run's steps in words."""
    config, summary = run.read_config()[0], run.read_summary()
    first, later, optimizer = step_flops(config, load_corpus(config))
    whole = min(FIRST_STEPS, summary["step"])
    total = whole * first + (summary["step"] - whole) * later
    return (f"{run.path.name}: {later / 1e12:.3f} TFLOP a step of {config.tokens_per_step:,} tokens "
            f"({first / 1e12:.3f} in the first {FIRST_STEPS}), {optimizer / later:.0%} of it the optimiser's; "
            f"{total / 1e12:,.0f} TFLOP in all: {summary['verdict']}")


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(report(RunFolder(Path.cwd() / folder)), flush=True)
