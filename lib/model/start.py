"""Starts at which a GPT-2 already has what a small text is too short to teach it.

In a small text five tokens of context tell what comes next at most places, eight at nearly all. A GPT-2 that begins at
random takes many epochs until its heads look at single tokens so near; until then it learns what follows pairs of
tokens, and where in a window a passage stood. With `look_back`, head h of the first layer begins by attending to the
token h places back, its own for head 0. With `key_value`, besides, the feed-forward layers begin as empty memories: a
hidden unit speaks for few contexts only, and what is to come next can be written for one without a word about the
others. The architecture is GPT-2's. Other structures put into weights before training: Trockman & Kolter, "Mimetic
Initialization of Self-Attention Layers" (2023); feed-forward layers as memories: Geva et al., "Transformer Feed-Forward
Layers Are Key-Value Memories" (2021), and, with sparse keys, Kanerva, "Sparse Distributed Memory" (1988).
"""
import math
from pathlib import Path

import torch
import torch.nn as nn

from lib.config import RunConfig

AMPLITUDE = 0.3  # of the position table's waves; tokens begin at 0.02 and grow, and must not drown them
PEAK = 10.0  # how far the score of the token a head looks for begins above the others
REST = 0.25  # share of their random start that queries and keys keep
CODE = 1 / 39  # std of the channels that hold the context is this times the root of the number of hidden units, and
READ = 1 / 34  # so are the gains of the norms that units read them through: meant to let one rate fit all sizes
USUAL = 1000  # id of a token that counts 1 in the code
NEARER = 0.95  # share of its count there that a token keeps with each place it stands further back
SHARP = 10.0  # std of what goes into a hidden unit: so large, GELU is a threshold
THRESHOLD = 2.3  # of these stds, above which a unit speaks: one in a hundred does
LOUD = 8.0  # gains of the last norm, for what the memories say: it is small beside the context


def origin(config: RunConfig) -> str:
    """What weights a run begins with, in words."""
    if config.init_from:
        return f"the weights of {Path(config.init_from).name}"
    return {"gpt2": "random weights",
            "look_back": "random weights, but for the first layer's heads, which are set to look at the tokens just "
                         "before",
            "key_value": "random weights, but for the first layer's heads, which are set to look at the tokens just "
                         "before, and the feed-forward layers, which are set up as empty memories"}[config.init]


@torch.no_grad()
def look_back(model: nn.Module) -> None:
    """Let head h of the first layer of a new GPT attend to the token h places back.

    As many channels as a head has are kept for positions: waves of n = hs / 2 frequencies w, cos(w i) and sin(w i) at
    position i, less their mean, which LayerNorm would take from all other channels. Queries copy them and keys turn
    them by w h, so the score of place j from place i is a sum of cos(w (i - j - h)), which is largest at j = i - h.
    Nothing but these queries and keys sees a position: elsewhere those channels begin at zero, and so do the gains that
    norms give to them. The position table itself is not to be trained.
    """
    C, n_head = model.config.n_embd, model.config.n_head
    hs = C // n_head
    n, places = hs // 2, slice(C - hs, C)
    w = (torch.arange(n) + torch.rand(n)) * math.pi / n  # one frequency in each n-th part of (0, pi)
    angles = torch.arange(model.config.block_size)[:, None] * w
    model.wpe.weight.zero_()
    waves = AMPLITUDE * torch.cat([angles.cos(), angles.sin()], dim=1)
    model.wpe.weight[:, places] = waves - waves.mean(dim=1, keepdim=True)
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


@torch.no_grad()
def key_value(model: nn.Module) -> None:
    """Let a new GPT look back, and its feed-forward layers begin as memories that are empty.

    The first third of the channels holds a code of the context: all that the first layer's heads gather goes there, and
    hidden units see nothing else. Each speaks where a random projection of the code is above a threshold, so that a
    context has a few units in every layer, which hardly any other context has. What tells most counts most in the code:
    rare tokens, for commas and line breaks stand in all contexts, and near ones, for at the beginning of a window there
    are no others. All other channels, but for those of positions, belong to the token table and to what the layers say:
    `mlp.c_proj`, zero at first, writes there, and only the head reads it. The loss then depends on these matrices
    nearly as on those of a single layer, and one plain gradient step writes what follows a context. Attention of later
    layers adds nothing.

    All this stays so where only the matrices of the feed-forward layers are trained, as lib.training.optimizer does it:
    `c_proj` learns what to say, `c_fc` to tell apart contexts that share a unit. Were the keys to stay as they are
    drawn, what is said would be a sum over fixed units, which cannot serve ten times as many tokens as there are units,
    as in tiny Shakespeare.
    """
    look_back(model)
    C, hs = model.config.n_embd, model.config.n_embd // model.config.n_head
    code, told = slice(0, C // 3), slice(C // 3, C - hs)  # channels; those of positions are the last
    units = model.config.n_layer * 4 * C
    counts = torch.arange(1, len(model.wte.weight) + 1).log() / math.log(USUAL)  # ids go from frequent to rare
    model.wte.weight[:, code] *= counts[:, None]
    gather, gathered = model.h[0].attn.c_attn.weight[2 * C:], model.h[0].attn.c_proj.weight  # (C, C) each
    gather[:, told] = 0
    share = code.stop * 0.02 ** 2 / ((C - hs) * 0.02 ** 2 + hs / 2 * AMPLITUDE ** 2)  # of the squares that ln_1 sees
    near = NEARER ** torch.arange(model.config.n_head).repeat_interleave(hs)  # (C,)
    gathered.zero_()
    nn.init.normal_(gathered[code], std=CODE * (units / (share * C * near.square().sum())) ** 0.5 / 0.02)
    gathered *= near
    loudness = READ * (units * C / code.stop) ** 0.5  # std of the code behind a norm: it is nearly all of the stream
    for block in model.h:
        block.ln_2.weight[code] = READ * units ** 0.5
        block.ln_2.weight[code.stop:] = 0
        nn.init.normal_(block.mlp.c_fc.weight, std=SHARP / (loudness * code.stop ** 0.5))
        nn.init.constant_(block.mlp.c_fc.bias, -THRESHOLD * SHARP)
        nn.init.zeros_(block.mlp.c_proj.weight)
    for block in model.h[1:]:
        nn.init.zeros_(block.attn.c_proj.weight)
    model.ln_f.weight[code] = 0
    model.ln_f.weight[told] = LOUD


STARTS = {"look_back": look_back, "key_value": key_value}
