"""What a step takes in one process and in several, and its parts: what benchmarks/scaling.md reckons with.

    python benchmarks/scaling.py                                                one process; large steps of Muon
    torchrun --standalone --nproc_per_node 2 benchmarks/scaling.py              two
    python benchmarks/scaling.py --batch_size 2 --amp off                       any parameter may be another one
"""
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import tyro

from lib.config import RunConfig
from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.text.corpus import load_corpus
from lib.training.group import Group
from lib.training.machine import prepare_machine
from lib.training.sampled_softmax import FIRST_STEPS
from lib.training.split import SplitStep, follow
from lib.training.step import TrainingStep

ROUNDS = 3
LARGE_STEPS = preset_config("plain", batch_size=16, sampled_softmax=True, optimizer="muon", muon_rows=0)


def seconds(work: Callable[[], object]) -> float:
    """The median of ROUNDS, after one that does not count."""
    took = []
    for _ in range(1 + ROUNDS):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return statistics.median(took[1:])


def one_process(step: TrainingStep) -> str:
    whole = seconds(lambda: (step(FIRST_STEPS), step.read()))
    gradients = seconds(lambda: step.gradients(FIRST_STEPS).item())
    return f"a step {whole:.2f} s, of it {gradients:.2f} s its gradients"


def several_processes(step: SplitStep, tokens) -> str:
    """Empty where another process speaks."""
    numbers = torch.zeros(step.model.num_parameters(), device=step.machine.device)
    exchange = seconds(lambda: step.group.sum(numbers)[0].item())
    if step.group.rank:
        follow(step, tokens)
        return ""
    whole = seconds(lambda: (step(FIRST_STEPS), step.read()))
    step.group.say(step.group.END)
    return f"a step {whole:.2f} s; to sum {numbers.nbytes / 1e6:.0f} MB takes {exchange:.2f} s alone"


def main(arguments: list[str]) -> None:
    config = tyro.cli(RunConfig, default=LARGE_STEPS, args=arguments, use_underscores=True)
    machine, corpus = prepare_machine(config), load_corpus(config)
    if "RANK" in os.environ:
        machine = dataclasses.replace(machine, group=Group(machine.device))
        line = several_processes(SplitStep(new_model(config, machine.device), corpus, config, machine), corpus.tokens)
    else:
        line = one_process(TrainingStep(new_model(config, machine.device), corpus, config, machine))
    if line:
        print(f"{config.tokens_per_step:,} tokens, {machine.name()}, {machine.precision}: {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
