"""Text -> tokens -> windows -> batches."""
import contextlib
import functools
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.config import ROOT, InputError, RunConfig
from lib.files import whole_file
from lib.text.default_text import DEFAULT_FILE, write_default_text
from lib.text.tokenizer import encode_prompt, encoding, pieces, tokenize

TOKENS = ROOT / "data" / "tokens"  # of large texts, each in a file named by the text's sha256
OPENING = 16  # tokens of a text to prompt a model of it with: enough to tell where in the text they stand
LARGE = 20_000_000  # bytes from which tokens are kept: encoding so many takes some seconds


@dataclass(frozen=True)
class Corpus:
    """A text and its GPT-2 tokens (N,), uint16."""

    path: Path
    sha256: str  # of the whole file, also where only its first tokens are used
    tokens: np.ndarray


def load_corpus(config: RunConfig) -> Corpus:
    """The text of config.input_file and its first config.max_tokens tokens; makes the default text where it is missing.

    Raises InputError for a file that is missing, cannot be read, is not UTF-8 text as far as it is used, or is shorter
    than one window of seq_len tokens, where the default text cannot be written, and for a prompt longer than a window.
    """
    if config.prompt:
        encode_prompt(config.prompt, config.seq_len)
    path = Path(os.path.normpath(ROOT / config.input_file))
    try:
        if path == DEFAULT_FILE and not path.exists():
            write_default_text(path)
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device, which is not read twice"
            raise InputError(f"{path} is {kind}: save the text in a file, and name that with --input_file")
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        tokens = _tokens(path, sha256, config.max_tokens)
    except FileNotFoundError:
        raise InputError(f"there is no text file {path}: name one with --input_file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read or made ({error.strerror}): name another with --input_file") from None
    if 0 < config.max_tokens < config.seq_len + 1:
        raise InputError(f"max_tokens {config.max_tokens} is less than one window of seq_len {config.seq_len} and its "
                         "target: raise --max_tokens, or lower --seq_len")
    if len(tokens) < config.seq_len + 1:
        raise InputError(f"{path} gives {len(tokens):,} tokens, fewer than one window of seq_len {config.seq_len} "
                         "and its target: lower --seq_len or use more text")
    return Corpus(path, sha256, tokens)


def _tokens(path: Path, sha256: str, most: int) -> np.ndarray:
    """The first `most` tokens of a text, 0 for all; those of a large text are encoded once and read from disk after."""
    kept = TOKENS / f"{sha256}.gpt2"
    if kept.exists():
        return np.memmap(kept, np.uint16, mode="r")[:most or None]
    parts, count = [], 0
    for part in tokenize(pieces(path)):
        parts.append(part)
        count += len(part)
        if most and count >= most:
            return np.concatenate(parts)[:most]
    tokens = np.concatenate(parts)
    if path.stat().st_size >= LARGE:
        with contextlib.suppress(OSError), whole_file(kept) as file:  # without room for it the next run encodes again
            file.write(tokens)
    return tokens[:most or None]


def opening(tokens: np.ndarray, seq_len: int) -> str:
    """How a text (N,) begins: what a model that sees seq_len tokens can be prompted with when nothing else is asked."""
    data = encoding().decode_bytes(tokens[:min(OPENING, seq_len // 2)].tolist())
    return data.decode("utf-8", "ignore")  # a character may have been cut


def window_starts(length: int, seq_len: int, offset: int = 0) -> np.ndarray:
    """Where windows of seq_len tokens and their last target start in `length` tokens, cut at `offset`, (n,) int64.

    Windows that would stick out are moved inside the text, over their neighbours, so that every token after the first
    is a target in every epoch; at an offset other than 0 the last one may come twice.
    """
    first = -1 if offset else 0
    cuts = offset + np.arange(first, math.ceil((length - 1) / seq_len)) * seq_len
    return np.clip(cuts, 0, length - 1 - seq_len)


class Batches:
    """Micro-batch k of a run, a pure function of (seed, k): no state, so a resumed run sees the same data.

    Orders: `epoch` cuts the text at a fresh random offset each epoch and shuffles its windows; `fixed` always cuts at 0
    and shuffles; `sequential` cuts at 0 and keeps the order of the text; `random` draws window starts uniformly.
    """

    def __init__(self, tokens: np.ndarray, config: RunConfig):
        self.tokens = tokens
        self.batch_size, self.seq_len = config.batch_size, config.seq_len
        self.order, self.seed = config.order, config.seed
        self.windows_per_epoch = len(self._epoch_starts(0))

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a run has one Batches)
    def _epoch_starts(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        offset = rng.integers(1, self.seq_len + 1) if self.order == "epoch" else 0
        starts = window_starts(len(self.tokens), self.seq_len, offset)
        return starts if self.order == "sequential" else rng.permutation(starts)

    def starts(self, k: int) -> np.ndarray:
        """Where the windows of micro-batch k start, (B,)."""
        if self.order == "random":
            return np.random.default_rng((self.seed, k)).integers(len(self.tokens) - self.seq_len, size=self.batch_size)
        epochs, places = np.divmod(np.arange(k * self.batch_size, (k + 1) * self.batch_size), self.windows_per_epoch)
        return np.array([self._epoch_starts(epoch)[place]
                         for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)])

    def windows(self, k: int) -> np.ndarray:
        """The windows of micro-batch k with their last target, (B, T + 1) int64."""
        return self.tokens[self.starts(k)[:, None] + np.arange(self.seq_len + 1)].astype(np.int64)

    def batch(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs x and targets y of micro-batch k, (B, T) int64 each; y is x moved on by one token."""
        windows = self.windows(k)
        return windows[:, :-1], windows[:, 1:]
