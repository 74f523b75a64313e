"""What a step of Muon takes in fp32 and in bf16, and how far bf16 moves it, by the rows that it takes at a time.

    python benchmarks/muon.py runs/NAME          a minute or two on two cores

The gradients are the momenta of a run's last checkpoint, which must have been trained with Muon. What bf16 "moves" is
the distance between both updates of all matrices, as a share of the length of the one in fp32.
"""
import dataclasses
import sys
import time
from pathlib import Path

import torch

from lib.model.gpt import new_model
from lib.runs.checkpoint import load_checkpoint
from lib.runs.folder import RunFolder
from lib.training.machine import prepare_machine
from lib.training.optimizer import make_optimizers


def main(run: RunFolder) -> None:
    config, state = run.read_config()[0], load_checkpoint(run.last_checkpoint)["optimizers"][0]
    prepare_machine(dataclasses.replace(config, device="cpu", resume=""))
    muon = make_optimizers(new_model(config), config)[0]
    muon.load_state_dict(state)
    matrices = [p for group in muon.param_groups for p in group["params"]]
    print(f"{run.path.name}: {len(matrices)} matrices, {sum(p.numel() for p in matrices):,} weights, "
          f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for rows in (64, 128, 256, 0):
        seconds, updates = [], []
        for dtype in (torch.float32, torch.bfloat16):
            for group in muon.param_groups:
                group |= {"rows": rows, "lr": 1.0, "weight_decay": 0.0}
            muon.dtype, took = dtype, []
            for _ in range(3):
                for p in matrices:
                    p.data.zero_()
                    p.grad = muon.state[p]["momentum"].clone()
                begin = time.perf_counter()
                muon.step()
                took.append(time.perf_counter() - begin)
            seconds.append(min(took))
            updates.append(torch.cat([p.detach().flatten() for p in matrices]))
        moves = (updates[1] - updates[0]).norm() / updates[0].norm()
        print(f"{rows or 'all':>4} rows: {seconds[0]:6.3f} s in fp32, {seconds[1]:6.3f} s in bf16, "
              f"which moves {moves:.1%}", flush=True)


if __name__ == "__main__":
    main(RunFolder(Path.cwd() / sys.argv[1]))
