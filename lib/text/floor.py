"""How low the loss on a text can go at all, and how low it goes without a model."""
import math

import numpy as np

from lib.config import CUT_AT_0, InputError, RunConfig
from lib.text.corpus import window_starts
from lib.text.ngrams import ngram_identities
from lib.text.tokenizer import encoding


def loss_floor(tokens: np.ndarray, seq_len: int, order: str) -> float:
    """The lowest mean loss, in nats, that any model can reach on windows of this text.

    A model that knows the text by heart still has to guess where it is: what the T targets of a window cost at least
    is the entropy of the window given its first token. By the chain rule that is H(windows of T + 1 tokens) -
    H(their first tokens). Two windows taken for one by their hashes would change it by less than 2 / N.

    The windows are those that the order trains on: cut at 0 for `fixed` and `sequential`, at any
    offset for `epoch` and `random`, which have to know the text wherever it is cut.
    """
    starts = _starts(tokens, seq_len, order)
    windows = ngram_identities(tokens, seq_len + 1)[starts]
    return max(0.0, _entropy(windows) - _entropy(tokens[starts])) / seq_len


def position_floors(tokens: np.ndarray, seq_len: int, order: str, positions: int) -> np.ndarray:
    """The same for each of the first targets of a window, (positions,): what the next token costs at least to one who
    knows the text and has read the window so far, H(windows of n + 1 tokens) - H(windows of n tokens)."""
    starts = _starts(tokens, seq_len, order)
    entropies = [_entropy(ngram_identities(tokens, n)[starts]) for n in range(1, positions + 2)]
    return np.maximum(0.0, np.diff(entropies))


def counted_losses(tokens: np.ndarray) -> dict[str, float]:
    """The mean loss on a text (N,), in nats, of one who knows nothing, of a table of how often each token occurs in it
    and of one of what follows each: what a model has to be better than, by what was counted."""
    pairs = _entropy(ngram_identities(tokens, 2)) - _entropy(tokens[:-1])
    return {"nothing": math.log(encoding().n_vocab), "single tokens": _entropy(tokens),
            "pairs of tokens": max(0.0, pairs)}


def reachable_floor(tokens: np.ndarray, config: RunConfig) -> float:
    """The loss floor of a run; InputError, with the shortest seq_len that would do, if it has a target and that
    lies below."""
    floor = loss_floor(tokens, config.seq_len, config.order)
    if 0 < config.target_loss <= floor:
        lengths = [2 ** power for power in range(1, min(config.block_size, len(tokens) - 1).bit_length())]
        enough = next((n for n in lengths if loss_floor(tokens, n, config.order) < config.target_loss), None)
        advice = f"use --seq_len {enough}" if enough else "raise --target_loss"
        cut = "from its start" if config.cut_at_0 else "anywhere"
        raise InputError(f"no model can reach a loss of {config.target_loss:g} on this text, cut {cut} into windows of "
                         f"seq_len {config.seq_len}: their floor is {floor:.6f} (each starts without context); "
                         f"{advice}")
    return floor


def _starts(tokens: np.ndarray, seq_len: int, order: str) -> np.ndarray | slice:
    """Where the windows start that an order trains on, or all that it may."""
    return window_starts(len(tokens), seq_len) if order in CUT_AT_0 else slice(len(tokens) - seq_len)


def _entropy(identity: np.ndarray) -> float:
    """Entropy in nats of the empirical distribution of these numbers."""
    share = np.unique(identity, return_counts=True)[1] / len(identity)
    return float(-(share * np.log(share)).sum())
