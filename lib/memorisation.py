"""How much of a text a model gives back word for word."""
import codecs
import html
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from lib.model import GPT
from lib.ngrams import NgramIndex
from lib.sampling import generate
from lib.tokenizer import encoding

CONTINUATION = 50  # tokens


@dataclass(frozen=True)
class Recall:
    """What a model gave back of passages of a text after reading their beginnings."""

    passages: int
    exact: float  # share of passages of which all CONTINUATION tokens came back
    tokens: float  # mean number of tokens that came back before the first wrong one


def recall(model: GPT, tokens: np.ndarray, starts: np.ndarray, prefix: int, context: int,
           batch_size: int = 10) -> Recall:
    """Let a model go on, greedily, from the `prefix` tokens at each of `starts`, and compare with the text (N,).

    A batch ends as soon as each of its passages has gone wrong, so small ones are fastest. Only starts with
    prefix + CONTINUATION tokens behind them count; where there is none, shares are NaN.
    """
    starts = starts[starts + prefix + CONTINUATION <= len(tokens)]
    if not len(starts):
        return Recall(0, math.nan, math.nan)
    passages = tokens[starts[:, None] + np.arange(prefix + CONTINUATION)].astype(np.int64)
    right = torch.zeros(len(starts), dtype=torch.long)
    for first, some in enumerate(torch.from_numpy(passages).to(model.wte.weight.device).split(batch_size)):
        going = torch.ones(len(some), dtype=torch.bool)  # has made no error yet
        told = generate(model, some[:, :prefix], CONTINUATION, context, temperature=0)
        for token, truth in zip(told, some[:, prefix:].T, strict=True):
            going &= (token == truth).cpu()
            if not going.any():
                break
            right[first * batch_size:][:len(some)] += going
    return Recall(len(starts), (right == CONTINUATION).double().mean().item(), right.double().mean().item())


@dataclass(frozen=True)
class Quotation:
    """A sample, as pieces of text with whether each stands in the corpus, and its longest piece that does."""

    pieces: list[tuple[str, bool]]
    share: float  # of the sample's tokens
    longest: str  # empty where it is shorter than the n of the index
    longest_tokens: int

    def marked(self) -> str:
        """The sample as HTML in which what is quoted is marked; it has no live tag but <mark>."""
        return "".join(f"<mark>{html.escape(piece)}</mark>" if quoted else html.escape(piece)
                       for piece, quoted in self.pieces)


def quotation(sample: str, index: NgramIndex) -> Quotation:
    """What of a sample stands in the text of an index, in stretches of n tokens or more."""
    ids = np.array(encoding().encode_ordinary(sample), dtype=np.uint16)
    quoted, longest = index.quoted(ids), index.longest_quotation(ids)
    cuts = [0, *(np.flatnonzero(np.diff(quoted)) + 1).tolist(), len(ids)]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may end within a character
    pieces = [(decoder.decode(encoding().decode_bytes(ids[a:b].tolist())), bool(quoted[a]))
              for a, b in itertools.pairwise(cuts) if b > a]
    return Quotation(pieces, float(quoted.mean()) if len(ids) else 0.0, encoding().decode(ids[longest].tolist()),
                     longest.stop - longest.start)
