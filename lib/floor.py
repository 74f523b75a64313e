"""How low the loss on a text can go at all."""
import numpy as np

from lib.config import InputError, RunConfig
from lib.corpus import window_starts

ODD = np.uint64(0xD6E8FEB86659FD93)  # any odd number with irregular bits would do


def loss_floor(tokens: np.ndarray, seq_len: int, order: str) -> float:
    """The lowest mean loss, in nats, that any model can reach on windows of this text.

    A model that knows the text by heart still has to guess where it is: what the T targets of a window cost at least
    is the entropy of the window given its first token. By the chain rule that is H(windows of T + 1 tokens) -
    H(their first tokens), over all windows where offsets are random, over those cut at 0 where they are not.
    """
    cut_at_0 = order in ("fixed", "sequential")
    starts = window_starts(len(tokens), seq_len) if cut_at_0 else slice(len(tokens) - seq_len)
    windows = _window_identities(tokens, seq_len + 1)[starts]
    return max(0.0, _entropy(windows) - _entropy(tokens[starts])) / seq_len


def reachable_floor(tokens: np.ndarray, config: RunConfig) -> float:
    """The loss floor of a run; InputError, with the shortest seq_len that would do, if its target lies below that."""
    floor = loss_floor(tokens, config.seq_len, config.order)
    if config.target_loss <= floor:
        lengths = [2 ** power for power in range(1, min(config.block_size, len(tokens) - 1).bit_length())]
        enough = next((n for n in lengths if loss_floor(tokens, n, config.order) < config.target_loss), None)
        advice = f"use --seq_len {enough}" if enough else "raise --target_loss"
        raise InputError(f"no model can reach a loss of {config.target_loss:g} on this text in windows of seq_len "
                         f"{config.seq_len}: the floor is {floor:.6f} (each window starts without context); {advice}")
    return floor


def _window_identities(tokens: np.ndarray, width: int) -> np.ndarray:
    """For each of the N - width + 1 windows a number that equal windows share, (N - width + 1,) uint64.

    Hashes, by doubling: two windows of `size`, `step` apart, make one of size + step. That two different windows share
    one has a probability of N^2 / 2^65 in all, and would change the entropy by less than 2 / N.
    """
    known, size = _mixed(tokens.astype(np.uint64)), 1
    while size < width:
        step = min(size, width - size)
        known, size = _mixed(known[:-step] * ODD + known[step:]), size + step
    return known


def _mixed(x: np.ndarray) -> np.ndarray:
    """Another number for each, every bit of which depends on every bit of it; none is lost."""
    for _ in range(2):
        x = (x ^ (x >> np.uint64(32))) * ODD
    return x ^ (x >> np.uint64(32))


def _entropy(identity: np.ndarray) -> float:
    """Entropy in nats of the empirical distribution of these numbers."""
    share = np.unique(identity, return_counts=True)[1] / len(identity)
    return float(-(share * np.log(share)).sum())
