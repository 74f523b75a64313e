"""A prompt -> the text a model continues it with."""
from collections.abc import Callable, Iterator, Sequence

import torch

from lib.config import RunConfig
from lib.model.gpt import GPT, KVCache
from lib.text.tokenizer import decoded, encode_prompt


def visible_from(length: int, context: int) -> int:
    """The first of `length` tokens that the model still sees: at most `context`, and always more than half of it.

    Positions are absolute, so a cache cannot slide by one token. When the context is full its older half is dropped,
    the newer half is read again, and the cache serves for another half.
    """
    half = max(1, context // 2)
    return max(0, -(-(length - context) // half) * half)


@torch.inference_mode()
def generate(model: GPT, idx: torch.Tensor, max_new_tokens: int, context: int, temperature: float = 1.0,
             top_k: int = 0, generator: torch.Generator | None = None) -> Iterator[torch.Tensor]:
    """Continue idx (B, T) token by token: yields max_new_tokens tensors of (B,) ids.

    Logits are divided by `temperature` (0: the likeliest token); `top_k` keeps that many of them (0: all). `context`
    is how many tokens the model may look back: the length it was trained on, for later positions know nothing.
    """
    model.eval()
    context = min(context, model.config.block_size)
    cache, start = None, -1
    for _ in range(max_new_tokens):
        if (visible := visible_from(idx.size(1), context)) != start:
            start, unread = visible, idx[:, visible:]
            cache = KVCache(model, idx.size(0), context)
        else:
            unread = idx[:, -1:]
        next_token = choose(model(unread, cache=cache)[:, -1], temperature, top_k, generator)
        idx = torch.cat((idx, next_token[:, None]), dim=1)
        yield next_token


def choose(logits: torch.Tensor, temperature: float, top_k: int, generator: torch.Generator | None) -> torch.Tensor:
    """Draw one token per row of logits (B, V) -> (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    if 0 < top_k < logits.size(-1):  # to draw among a few is quicker than among all with most at zero
        logits, ids = logits.topk(top_k, dim=-1)
        return ids.gather(1, choose(logits, temperature, 0, generator)[:, None]).squeeze(1)
    probabilities = next_token_probabilities(logits, temperature)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def next_token_probabilities(logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0) -> torch.Tensor:
    """softmax(logits / temperature) over the top_k likeliest tokens, zero elsewhere; (B, V) -> (B, V)."""
    logits = logits.float() / temperature
    if 0 < top_k < logits.size(-1):
        weakest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, -torch.inf)
    return logits.softmax(dim=-1)


@torch.inference_mode()
def likeliest_paths(model: GPT, idx: torch.Tensor, context: int, branches: Sequence[int],
                    temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest ways on from idx (1, T): as many next tokens as the first of `branches`, after each as many as the
    second, and so on. Returns the tokens of each way, and the probability of each behind those before it, both (ways,
    steps); those with a beginning in common stand together."""
    model.eval()
    shares = torch.ones(1, 0, device=idx.device)
    for count in branches:
        logits = model(idx[:, visible_from(idx.size(1), context):])[:, -1]
        p, ids = next_token_probabilities(logits, temperature).topk(count)  # (ways, count) each
        idx = torch.cat((idx.repeat_interleave(count, 0), ids.flatten()[:, None]), dim=1)
        shares = torch.cat((shares.repeat_interleave(count, 0), p.flatten()[:, None]), dim=1)
    return idx[:, -len(branches):], shares


def sample_texts(model: GPT, prompt: str, config: RunConfig, step: int = 0,
                 check: Callable[[], None] = lambda: None) -> list[str]:
    """config.num_prompts continuations of a prompt, prompt included.

    They have a generator of their own, seeded by the run's seed and the step: training does not notice them, and a
    resumed run draws the same. `check` is called after each token and may raise to end it.
    """
    device = model.wte.weight.device
    generator = torch.Generator(device).manual_seed(config.seed + step)
    idx = torch.tensor([encode_prompt(prompt, config.seq_len)] * config.num_prompts, device=device)
    new = []
    for token in generate(model, idx, config.max_new_tokens, config.seq_len, config.temperature, config.top_k,
                          generator):
        new.append(token)
        check()
    return [decoded(row)[0] for row in torch.cat((idx, torch.stack(new, dim=1)), dim=1).tolist()]
