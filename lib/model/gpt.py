"""GPT-2, bottom-up: attention, feed-forward, block, model.

The architecture and the names of its parts are those of Radford et al., "Language Models are Unsupervised Multitask
Learners" (2019). Shapes: B sequences, T tokens, C = n_embd channels, nh heads of hs = C / nh channels, V tokens known.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from lib.config import RunConfig
from lib.model.start import STARTS


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2; the defaults are the smallest published one, 124,439,808 parameters."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024  # positions it has embeddings for: the longest context
    vocab_size: int = 50257  # 256 bytes + 50,000 merges + <|endoftext|>
    dropout: float = 0.0


@dataclass(frozen=True)
class Candidates:
    """Tokens (K,) that a softmax runs over instead of all V, what to add to their logits (K,), and where a token stands
    among them (V,)."""

    tokens: torch.Tensor
    log_weights: torch.Tensor
    places: torch.Tensor


class KVCache:
    """The keys and values of tokens already read, so that each new token costs one position, not the whole context.

    Holds at most `capacity` tokens of `batch_size` sequences; `length` says how many it holds now.
    """

    def __init__(self, model: "GPT", batch_size: int, capacity: int):
        c = model.config
        shape = (c.n_layer, batch_size, c.n_head, capacity, c.n_embd // c.n_head)
        self.keys = torch.empty(shape, dtype=model.wte.weight.dtype, device=model.wte.weight.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the (B, nh, T, hs) keys and values of new tokens; return those of all tokens so far."""
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., in) @ weight (out, in).T + bias (out,) -> (..., out), as F.linear.

    Fewer than eight rows, as where text is written, are multiplied the other way round: on a processor that takes a
    half to a third of the time (benchmarks/records/2026-11-23-how-fast-is-sampling.md).
    """
    rows = x.numel() // x.size(-1)
    if rows >= 8:
        return F.linear(x, weight, bias)
    columns = x.reshape(rows, -1).T
    y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)  # (out, rows)
    return y.T.reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A layer of `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


class CausalSelfAttention(nn.Module):
    """Every token gathers from itself and the tokens before it: softmax(q k^T / sqrt(hs)) v, in nh heads."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.n_head, self.layer, self.dropout = config.n_head, layer, config.dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)  # query, key and value in one product
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """(B, T, C) -> (B, T, C). With a cache that is not empty, T must be 1."""
        if self._adds_nothing():
            return self.c_proj.bias.expand_as(x)
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
                   for part in self.c_attn(x).split(C, dim=2))
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        # one new token may look at all before it; several at once each only at their own past
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1,
                                           dropout_p=self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y))

    def _adds_nothing(self) -> bool:
        """Whether the projection is zero and frozen, as in later layers with init `key_value`: what is gathered then
        need not be computed, which saves more than a quarter of a step. A GPU is not asked: one would have to wait for
        its answer, and attention costs it little."""
        weight = self.c_proj.weight
        return not weight.requires_grad and weight.device.type == "cpu" and not weight.any()


class MLP(nn.Module):
    """Each token by itself: widen four times, bend, narrow again."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = F.gelu(self.c_fc(x), approximate="tanh")  # GPT-2 has the tanh form; the exact one changes logits by 1e-3
        return self.resid_dropout(self.c_proj(x))


class Block(nn.Module):
    """Attention, then feed-forward, each reading a normalised copy of the residual stream and adding to it."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """Token ids in, a prediction of the next token at every position out."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """GPT-2's start: N(0, 0.02), biases 0, and the two projections into the residual stream of each block smaller.

        2 * n_layer projections add up in the stream; dividing their std by sqrt(2 * n_layer) keeps its variance even.
        """
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, (CausalSelfAttention, MLP)):  # visited after its own layers, so this comes last
            nn.init.normal_(module.c_proj.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None, cache: KVCache | None = None,
                candidates: Candidates | None = None):
        """idx (B, T) -> logits (B, T, V); with targets (B, T) -> their mean cross-entropy in nats, a scalar.

        With candidates, among which the targets must be, the softmax runs over those alone. With a cache, idx continues
        the tokens in it and only the last position's logits come back, (B, 1, V).
        Raises ValueError where the context would be longer than block_size.
        """
        past, T = cache.length if cache is not None else 0, idx.size(1)
        if past + T > self.config.block_size:
            raise ValueError(f"a context of {past + T} tokens is longer than block_size {self.config.block_size}")
        pos = torch.arange(past, past + T, device=idx.device)
        x = self.drop(self.wte(idx) + self.wpe(pos))  # (B, T, C)
        for block in self.h:
            x = block(x, cache)
        x = self.ln_f(x)
        if cache is not None:
            cache.length += T
            x = x[:, -1:]
        if candidates is not None:
            logits = F.linear(x, self.wte(candidates.tokens), candidates.log_weights)  # (B, T, K)
            return F.cross_entropy(logits.flatten(0, 1), candidates.places[targets.flatten()])
        logits = linear(x, self.wte.weight)  # (B, T, V); the head reuses wte: 124M parameters rather than 163M
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def num_parameters(self) -> int:
        """How many numbers it has."""
        return sum(p.numel() for p in self.parameters())


def new_model(config: RunConfig, device: torch.device | str = "cpu") -> GPT:
    """A model of a run's shape with random weights, drawn on the processor from config.seed, and what config.init puts
    into them."""
    torch.manual_seed(config.seed)
    model = shaped_model(config)
    if config.init != "gpt2":
        STARTS[config.init](model)
    return model.to(device)


def model_from(weights: dict[str, torch.Tensor], config: RunConfig) -> GPT:
    """A model of these weights to be asked, not trained: in eval mode, in the shape of a run, none with a gradient."""
    with torch.device("meta"):  # to draw weights that are replaced at once takes longer than to read them
        model = shaped_model(config)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)  # so that attention which adds nothing is left out


def shaped_model(config: RunConfig) -> GPT:
    """A model in the shape of a run, its weights as torch's generator draws them now."""
    return GPT(GPTConfig(**config.model_shape, dropout=config.dropout))
