"""A start at which attention already looks back, in the place of one at which it has to find out how to.

In a small text five tokens of context tell what comes next at most places, eight at nearly all. A GPT-2 that begins at
random takes many epochs until its heads look at single tokens so near; until then it learns what follows pairs of
tokens, and where in a window a passage stood. Here head h of the first layer begins by attending to the token h places
back, its own for head 0. The architecture is GPT-2's, and all else begins as GPT-2 does. Other structures put into
weights before training: Trockman & Kolter, "Mimetic Initialization of Self-Attention Layers" (2023).
"""
import math
from pathlib import Path

import torch
import torch.nn as nn

from lib.config import RunConfig

AMPLITUDE = 0.3  # of the position table's waves; tokens begin at 0.02 and grow, and must not drown them
PEAK = 10.0  # how far the score of the token a head looks for begins above the others
REST = 0.25  # share of their random start that queries and keys keep


def origin(config: RunConfig) -> str:
    """What weights a run begins with, in words."""
    if config.init_from:
        return f"the weights of {Path(config.init_from).name}"
    if config.init == "look_back":
        return "random weights, but for the first layer's heads, which are set to look at the tokens just before"
    return "random weights"


@torch.no_grad()
def look_back(model: nn.Module) -> None:
    """Let head h of the first layer of a new GPT attend to the token h places back.

    As many channels as a head has are kept for positions: waves of n = hs / 2 frequencies w, cos(w i) and sin(w i) at
    position i. Queries copy them and keys turn them by w h, so the score of place j from place i is a sum of
    cos(w (i - j - h)), which is largest at j = i - h. Nothing but these queries and keys sees a position: elsewhere
    those channels begin at zero, and so do the gains that norms give to them. The position table itself is not to be
    trained.
    """
    C, n_head = model.config.n_embd, model.config.n_head
    hs = C // n_head
    n, places = hs // 2, slice(C - hs, C)
    w = (torch.arange(n) + torch.rand(n)) * math.pi / n  # one frequency in each n-th part of (0, pi)
    angles = torch.arange(model.config.block_size)[:, None] * w
    model.wpe.weight.zero_()
    model.wpe.weight[:, places] = AMPLITUDE * torch.cat([angles.cos(), angles.sin()], dim=1)
    model.wte.weight[:, places] = 0

    square = ((C - hs) * 0.02 ** 2 + n * AMPLITUDE ** 2) / C  # of a channel, in the mean: ln_1 divides by its root
    scale = (PEAK * hs ** 0.5 / (n * AMPLITUDE ** 2 / square)) ** 0.5
    first = model.h[0].attn
    query, key, value = first.c_attn.weight.split(C)  # (C, C) each; rows h * hs and on are those of head h
    for part in (query, key):
        part.mul_(REST)
    value[:, places] = 0
    for h in range(n_head):
        rows = slice(h * hs, (h + 1) * hs)
        cos, sin = torch.diag((w * h).cos()), torch.diag((w * h).sin())
        query[rows, places] += scale * torch.eye(hs)
        key[rows, places] += scale * torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])
    first.c_proj.weight.mul_((2 * model.config.n_layer) ** 0.5)  # to 0.02: what is gathered here is the whole context
    norms = [norm for block in model.h for norm in (block.ln_1, block.ln_2)] + [model.ln_f]
    for norm in norms[1:]:
        norm.weight[places] = 0
