"""How memories of a given load learn a text: recipes for --init key_value, tried in minutes.

    python benchmarks/memories.py                 as many tokens for a unit as in tiny Shakespeare
    python benchmarks/memories.py --units 36864 --tokens 338025 --keys 0.95 --values 0.36

What lib.model.start.key_value begins with, without all else: a code of the last twelve tokens, units that speak where a
projection of it is above a threshold, and what they say, by plain gradient steps on both. Units say nothing of most
tokens, so sparse products do, and the softmax runs over the text's own tokens alone. Rates are not those of a GPT.
"""
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro

from lib.model.start import NEARER, SHARP, THRESHOLD
from lib.presets import preset_config
from lib.text.corpus import load_corpus

BACK = 12  # tokens in a code
CODE, HEAD, TOLD, TABLE = 256, 64, 448, 704  # channels: of it, of a head, of what is told, of a token
WINDOW, MEASURED = 1024, 8
LOUD = 4.6  # what the last norm makes of the told, and of the code, which is nearly all that it sees
SQUARE = 3.0  # a channel of the stream, squared, in the mean


@dataclass(frozen=True)
class Recipe:
    """What may be tried."""

    input_file: str = preset_config("plain").input_file
    tokens: int = 56_000  # of the text, the first
    units: int = 6144
    threshold: float = THRESHOLD  # standard deviations above which a unit speaks
    values: float = 2.2  # learning rate of what units say
    keys: float = 0.16  # learning rate of what they hear
    nearer: float = NEARER  # what the token before counts in the code, as a share
    rare: bool = True  # rare tokens count more than frequent ones
    warmup_steps: int = 16
    epochs: int = 4
    seed: int = 0


class Memories:
    """The weights: `keys` (units, CODE) and `said` (units, TOLD)."""

    def __init__(self, known: torch.Tensor, recipe: Recipe):
        """`known` (n,) are the ids of the tokens that the text has, which are 0 to n - 1 here."""
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        table = torch.randn(len(known), TABLE)
        if recipe.rare:
            table *= (known[:, None] + 1).log()
        # (n, CODE) for each place back: a head's value of a token, and where it goes
        self.parts = [table @ torch.randn(TABLE, HEAD) @ torch.randn(HEAD, CODE) / (TABLE * HEAD) ** 0.5
                      * recipe.nearer ** back for back in range(BACK)]
        self.head = torch.randn(TOLD, len(known)) * 0.02
        self.keys = torch.randn(recipe.units, CODE) / CODE ** 0.5
        self.said = torch.zeros(recipe.units, TOLD)

    def codes(self, idx: torch.Tensor) -> torch.Tensor:
        """(T,) -> (T, CODE): the sum of what each place back gives, as far as there is one, behind a norm."""
        x = torch.zeros(len(idx), CODE)
        for back, part in enumerate(self.parts):
            x[back:] += part[idx[:len(idx) - back]]
        return F.layer_norm(x, (CODE,))

    def read(self, window: torch.Tensor, rate: float = 0.0) -> torch.Tensor:
        """The losses (T,) of a window (T + 1,), which is then learned at a share of the rates."""
        idx, targets, T = window[:-1], window[1:], len(window) - 1
        x = self.codes(idx)
        above = x @ self.keys.T - self.recipe.threshold
        speaks = above > 0
        rows, units = speaks.nonzero(as_tuple=True)
        activation = SHARP * above[rows, units]
        y = _sparse(rows, units, activation, T, self.recipe.units) @ self.said
        norm = (1 + y.square().sum(1, keepdim=True) / (TABLE + HEAD) / SQUARE).rsqrt()
        logits = LOUD * norm * y @ self.head
        losses = F.cross_entropy(logits, targets, reduction="none")
        if rate:
            error = logits.softmax(1)
            error[torch.arange(T), targets] -= 1
            grad = LOUD / T * norm * (error @ self.head.T)
            grad -= y * (grad * y).sum(1, keepdim=True) * norm.square() / (TABLE + HEAD) / SQUARE
            heard = SHARP * torch.cat([(grad[r] * self.said[u]).sum(1)
                                       for r, u in zip(rows.split(8192), units.split(8192), strict=True)])
            self.said -= rate * self.recipe.values * (_sparse(units, rows, activation, self.recipe.units, T) @ grad)
            self.keys -= rate * self.recipe.keys * (_sparse(units, rows, heard, self.recipe.units, T) @ x)
        return losses


def _sparse(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (height, width), check_invariants=False)


def main(recipe: Recipe) -> None:
    text = load_corpus(preset_config("plain", input_file=recipe.input_file)).tokens[:recipe.tokens]
    known, tokens = torch.from_numpy(text.astype("int64")).unique(return_inverse=True)
    memories, step, begin = Memories(known, recipe), 0, time.perf_counter()
    draw = torch.Generator().manual_seed(recipe.seed)
    measured = torch.randint(len(tokens) - WINDOW, (MEASURED,), generator=draw).tolist()
    for epoch in range(recipe.epochs):
        first = int(torch.randint(WINDOW, (1,), generator=draw))
        for i in torch.randperm((len(tokens) - 1 - first) // WINDOW, generator=draw).tolist():
            step += 1
            memories.read(tokens[first + i * WINDOW:][:WINDOW + 1], min(1.0, step / max(1, recipe.warmup_steps)))
        losses = torch.stack([memories.read(tokens[start:start + WINDOW + 1]) for start in measured])
        print(f"epoch {epoch + 1}, step {step}: loss {losses.mean():.3f}; the first 16 tokens "
              f"{losses[:, :16].sum(1).mean():.0f} nats, the rest {losses[:, 16:].mean():.3f} a token; "
              f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Recipe, use_underscores=True))
