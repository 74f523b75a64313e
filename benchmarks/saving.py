"""What a checkpoint of GPT-2 124M costs training: the wait for the copy, and slower steps while it is written.

    python benchmarks/saving.py [--optimizer adamw --rounds 3]          about 2 minutes on two cores

Steps of this project's Trainer at 4 x 128 tokens; after every eighth best.pt and last.pt are written behind it.
"""
import argparse
import itertools
import statistics
import tempfile
import time

from lib.config import ROOT
from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.runs.folder import RunFolder
from lib.text.corpus import load_corpus
from lib.training.machine import prepare_machine
from lib.training.trainer import Trainer

STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as place:
        config = preset_config("excerpt", optimizer=args.optimizer, out_dir=place)
        machine = prepare_machine(config)
        trainer = Trainer(new_model(config, machine.device), load_corpus(config), config, RunFolder(place), machine)
        trainer._began = time.perf_counter()

        number = itertools.count()

        def steps() -> list[float]:
            times = []
            for _ in range(STEPS):
                begin = time.perf_counter()
                trainer.update(next(number))
                trainer.update.read()
                times.append(time.perf_counter() - begin)
            return times

        steps()
        for _ in range(args.rounds):
            undisturbed = statistics.median(steps())
            begin = time.perf_counter()
            trainer._save(best=True)
            stall = time.perf_counter() - begin
            beside = steps()
            trainer.writer.settle()
            begin = time.perf_counter()
            trainer._save(best=True)
            trainer.writer.settle()
            waited = time.perf_counter() - begin
            print(f"step {undisturbed:.2f} s; a save stalls training for {stall:.2f} s and makes {STEPS} steps after "
                  f"it {sum(beside) - STEPS * undisturbed:.1f} s longer, {max(beside) - undisturbed:.1f} s of it one "
                  f"step; waited for, as at the end of a run, it takes {waited:.1f} s", flush=True)


if __name__ == "__main__":
    main()
