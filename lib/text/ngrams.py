"""Stretches of tokens that are equal, found by number instead of by comparing: fast on a hundred megabytes of text."""
import numpy as np

ODD = np.uint64(0xD6E8FEB86659FD93)  # any odd number with irregular bits would do

PART = 1 << 16  # stretches that are numbered at a time: what that takes fits into a processor's cache


def ngram_identities(tokens: np.ndarray, n: int) -> np.ndarray:
    """For each of the N - n + 1 stretches of n tokens a number that equal ones share, (N - n + 1,) uint64.

    Hashes, by doubling: two stretches of `size`, `step` apart, make one of size + step. That two different stretches
    share a number anywhere in the text has a probability of N^2 / 2^65.
    """
    identities = np.empty(max(0, len(tokens) - n + 1), np.uint64)
    for first in range(0, len(identities), PART):
        known, size = _mixed(tokens[first:first + PART + n - 1].astype(np.uint64)), 1
        while size < n:
            step = min(size, n - size)
            known, size = _mixed(known[:-step] * ODD + known[step:]), size + step
        identities[first:first + PART] = known
    return identities


def _mixed(x: np.ndarray) -> np.ndarray:
    """Another number for each, every bit of which depends on every bit of it; none is lost."""
    for _ in range(2):
        x = (x ^ (x >> np.uint64(32))) * ODD
    return x ^ (x >> np.uint64(32))


class NgramIndex:
    """Tells which stretches of other texts stand in a text (N,); n tokens are the shortest it looks for."""

    def __init__(self, tokens: np.ndarray, n: int = 8):
        self.tokens, self.n = tokens, min(n, len(tokens))
        identities = ngram_identities(tokens, self.n)
        self._places = np.argsort(identities)
        self._sorted = identities[self._places]

    def places(self, ngrams: np.ndarray) -> list[np.ndarray]:
        """Where each n-gram of a text (M,) starts in the indexed one; M - n + 1 arrays, empty where it does not."""
        if len(ngrams) < self.n:
            return []
        identities = ngram_identities(ngrams, self.n)
        first, last = (np.searchsorted(self._sorted, identities, side) for side in ("left", "right"))
        return [self._places[i:j] for i, j in zip(first, last, strict=True)]

    def quoted(self, text: np.ndarray) -> np.ndarray:
        """Which tokens of a text (M,) are part of a stretch of n or more that stands in the indexed one, (M,) bool."""
        quoted = np.zeros(len(text), dtype=bool)
        for start, places in enumerate(self.places(text)):
            if len(places):
                quoted[start:start + self.n] = True
        return quoted

    def longest_quotation(self, text: np.ndarray) -> slice:
        """The longest stretch of a text (M,) that stands in the indexed one; empty where that is shorter than n."""
        longest = slice(0, 0)
        for start, places in enumerate(self.places(text)):
            end = start + self.n if len(places) else start
            while len(places) and end < len(text):
                places = places[places + (end - start) < len(self.tokens)]
                places = places[self.tokens[places + (end - start)] == text[end]]
                end += len(places) > 0
            if end - start > longest.stop - longest.start:
                longest = slice(start, end)
        return longest
