"""One batch of 256 tokens is learned by heart: GPT-2 124M with AdamW at 3e-4, an anchor to hold others against.

    python tests/slow/one_batch.py              about a minute on two cores
"""
import sys

import torch

from lib.model.gpt import GPT, GPTConfig
from lib.presets import preset_config
from lib.training.optimizer import make_optimizers


def main() -> int:
    torch.manual_seed(1337)
    model = GPT(GPTConfig())
    optimizer, = make_optimizers(model, preset_config("plain"))
    tokens = torch.randint(50257, (2, 129), generator=torch.Generator().manual_seed(0))
    updates = 0
    while (loss := model(tokens[:, :-1], tokens[:, 1:])).item() >= 0.1 and updates < 60:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
    print(f"loss {loss.item():.4f} after {updates} updates; below 0.1 within 60 is asked for")
    return int(loss.item() >= 0.1)


if __name__ == "__main__":
    sys.exit(main())
