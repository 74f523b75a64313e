"""One of the processes that train a run together, whose folder holds its config.json. Started by torch's launcher:

    torchrun --standalone --nproc_per_node 2 -m lib.training.worker runs/NAME
"""
import dataclasses
import os
import signal
import sys

import torch

from lib.config import ROOT, InputError
from lib.model.gpt import new_model
from lib.runs.checkpoint import load_first
from lib.runs.folder import RunFolder
from lib.runs.locate import recorded_amp
from lib.runs.trained import open_model
from lib.text.corpus import load_corpus
from lib.training.group import Group, end_with_ancestors
from lib.training.machine import prepare_machine
from lib.training.shard import ShardedStep
from lib.training.split import SplitStep, follow
from lib.training.trainer import Trainer


def main(path: str) -> None:
    """Lead the training of a run, or follow who does. Raises InputError for what cannot be trained so."""
    # a run is stopped through its STOP file; the launcher's signals reach all processes, at different steps
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    end_with_ancestors()
    run = RunFolder(path)
    config = dataclasses.replace(run.read_config()[0], amp=recorded_amp(run))
    # refuses more than can share a step, whatever was asked for where the run was begun
    dataclasses.replace(config, nproc_per_node=int(os.environ["WORLD_SIZE"]), nnodes=1)
    machine = prepare_machine(config)
    if machine.device.type == "cuda":
        machine = dataclasses.replace(machine, device=torch.device("cuda", int(os.environ["LOCAL_RANK"])))
        torch.cuda.set_device(machine.device)
    machine = dataclasses.replace(machine, group=Group(machine.device))
    corpus, model = load_corpus(config), new_model(config, machine.device)
    kind = ShardedStep if config.shard else SplitStep
    if machine.group.rank:
        if config.init_from and not run.checkpoints():
            model.load_state_dict(open_model(ROOT / config.init_from).model.state_dict())
        step, begins = kind(model, corpus, config, machine), 0
        if run.checkpoints():
            state, _ = load_first(run.checkpoints(), print)
            step.load_state_dict(state)
            begins = state["progress"]["step"]
    else:
        trainer = Trainer(model, corpus, config, run, machine, step=kind)
        begins = trainer.progress.step
    if len(set(steps := machine.group.all(begins))) > 1:  # they would add up gradients of different weights
        raise InputError(f"the processes would go on from steps {steps}: see that all can read the run's checkpoints")
    if machine.group.rank:
        follow(step, corpus.tokens)
        return
    try:
        trainer.train()
    finally:
        machine.group.say(machine.group.END)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except InputError as error:
        sys.exit(f"lib.training.worker: {error}")
