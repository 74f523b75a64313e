"""What goes on inside a model: where its heads look, what it would say at each depth, what it takes for related."""
import contextlib
import html
from collections.abc import Iterator

import numpy as np
import torch

from lib.model.gpt import GPT
from lib.text.tokenizer import characters


@torch.inference_mode()
def attention_weights(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    """How much each of T tokens of idx (T,) looks at each, in every head: (n_layer, nh, T, T), rows add up to 1; 0 in
    layers whose attention adds nothing, whatever it looks at.

    The model itself never has these weights whole; here they are computed from the queries and keys it forms.
    """
    model.eval()
    n_head, T, weights = model.config.n_head, len(idx), []

    def keep(attn, inputs, gathered):
        qkv = attn.c_attn(inputs[0])
        q, k = (part.view(T, n_head, -1).transpose(0, 1) for part in qkv[0].chunk(3, dim=1)[:2])  # (nh, T, hs)
        scores = q @ k.transpose(1, 2) / q.size(2) ** 0.5
        future = torch.ones(T, T, dtype=torch.bool, device=idx.device).triu(1)
        weights.append(scores.masked_fill(future, -torch.inf).softmax(dim=2) * attn.c_proj.weight.any())

    hooks = [block.attn.register_forward_hook(keep) for block in model.h]
    try:
        model(idx[None])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(weights)


@contextlib.contextmanager
def averaging(model: GPT) -> Iterator[None]:
    """While it is entered, every head averages all the tokens it may look at: its queries are zero."""
    C = model.config.n_embd
    queries = [parameter for block in model.h for parameter in (block.attn.c_attn.weight, block.attn.c_attn.bias)]
    before = [parameter[:C].clone() for parameter in queries]
    with torch.no_grad():
        for parameter in queries:
            parameter[:C] = 0
        try:
            yield
        finally:
            for parameter, rows in zip(queries, before, strict=True):
                parameter[:C] = rows


@torch.inference_mode()
def logit_lens(model: GPT, idx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model would say of tokens idx (T,) were its head asked after the embeddings already, or after one of its
    blocks: the likeliest next tokens, and the losses of those that come, both (n_layer + 1, T - 1).

    nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    model.eval()
    streams = []
    hooks = [model.h[0].register_forward_pre_hook(lambda block, inputs: streams.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda block, inputs, x: streams.append(x)) for block in model.h]
    try:
        model(idx[None])
    finally:
        for hook in hooks:
            hook.remove()
    told, losses = [], []
    for x in streams:  # one at a time: of a logit for each token known there are many
        logits = model.ln_f(x[0, :-1]) @ model.wte.weight.T
        told.append(logits.argmax(dim=1))
        losses.append(torch.nn.functional.cross_entropy(logits, idx[1:], reduction="none"))
    return torch.stack(told), torch.stack(losses)


def telling_heads(weights: torch.Tensor, tokens: np.ndarray) -> dict[str, tuple[int, int, float]]:
    """For each of four habits that heads are known to form, the head that has it most: layer, head, and the share of
    its attention that goes there, over the tokens (T,) that have such a place.

    The token before and what followed it: Olsson et al., "In-context Learning and Induction Heads" (2022). The same
    token: Wang et al., "Interpretability in the Wild" (2022). The first: Xiao et al., "Efficient Streaming Language
    Models with Attention Sinks" (2023).
    """
    T = len(tokens)
    row, column = np.indices((T, T))
    same = (tokens[:, None] == tokens) & (column < row)
    followed = np.zeros_like(same)
    followed[:, 1:] = same[:, :-1]
    habits = {"the token before": column == row - 1, "the first token": (column == 0) & (row > 1),
              "the same token earlier": same, "what followed it earlier": followed & (column < row)}
    told = {}
    for habit, places in habits.items():
        mask = torch.from_numpy(places).to(weights.device)
        if mask.any():
            share = (weights * mask).sum(3)[:, :, mask.any(1)].mean(2)  # (n_layer, nh)
            layer, head = divmod(int(share.argmax()), share.size(1))
            told[habit] = layer, head, share[layer, head].item()
    return told


def neighbours(table: torch.Tensor, tokens: list[int], among: torch.Tensor, count: int = 5) -> list[list[int]]:
    """For each of some tokens the `count` of those `among` (n,) whose rows of a table (V, C) point most nearly the same
    way, itself left out."""
    directions = torch.nn.functional.normalize(table[among], dim=1)
    near = []
    for token in tokens:
        likeness = directions @ torch.nn.functional.normalize(table[token], dim=0)
        likeness[among == token] = -torch.inf
        near.append(among[likeness.topk(min(count, len(among) - 1)).indices].tolist())
    return near


def shaded(tokens: np.ndarray, losses: np.ndarray, most: float = 8.0) -> str:
    """Tokens (T,) as HTML, each on a ground that is the more orange the higher its loss, most so at `most` nats, and
    never so much that it cannot be read on a light or a dark page. Tokens that are one character together have one
    ground, by their mean. It has no live tag but <span>."""
    spans = []
    for text, place in characters(tokens.tolist()):
        piece = html.escape(text).replace("\n", "↵\n")
        strength = 0.6 * min(1, np.mean(losses[place]) / most)
        ground = f"background: rgba(213, 94, 0, {strength:.2f})"
        told = " + ".join(f"{loss:.2f}" for loss in losses[place])
        spans.append(f'<span style="{ground}" title="{told} nats">{piece}</span>')
    return "".join(spans)
