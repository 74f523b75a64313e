"""How much of a text a model gives back word for word."""
import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lib.model.gpt import GPT
from lib.model.sampling import generate
from lib.text.ngrams import NgramIndex
from lib.text.tokenizer import decoded, encoding

CONTINUATION = 50  # tokens, fewer where the context is short


@dataclass(frozen=True)
class Recitation:
    """What a model read of a text, what it said after that, and how many tokens of it are the text's, up to the first
    that is not."""

    read: list[int]
    said: list[int]
    right: int


@dataclass(frozen=True)
class Recall:
    """How a model went on with passages of a text after reading `prefix` tokens of each."""

    prefix: int
    continuation: int  # tokens asked for
    passages: int
    exact: float  # share of passages of which all of these came back
    tokens: float  # mean number of tokens that came back before the first wrong one

    @property
    def exact_error(self) -> float:
        """The standard error of `exact`, as if passages were drawn at random: the spread of what others would show."""
        return math.sqrt(self.exact * (1 - self.exact) / self.passages) if self.passages else math.nan


@torch.inference_mode()
def recall(model: GPT, tokens: np.ndarray, starts: np.ndarray, prefixes: Sequence[int], context: int,
           batch_size: int = 16) -> list[Recall]:
    """Let a model go on, always with the likeliest token, after the first tokens of passages; for each of `prefixes`,
    compare with the text (N,).

    Until it errs, such a continuation reads the text itself. So nothing need be written: one pass over a passage shows
    what the model would say at each place, after each of the prefixes. Passages begin at `starts`; those too near the
    end of the text do not count, and where none is left, figures are NaN. A passage is `context` tokens long at most.
    Leaves the model in eval mode.
    """
    continuation = min(CONTINUATION, context - max(prefixes))
    length = max(prefixes) + continuation
    starts = starts[starts + length <= len(tokens)]
    if not len(starts):
        return [Recall(prefix, continuation, 0, math.nan, math.nan) for prefix in prefixes]
    model.eval()
    passages = torch.from_numpy(tokens[starts[:, None] + np.arange(length)].astype(np.int64))
    right = torch.cat([model(some[:, :-1].to(model.wte.weight.device)).argmax(dim=-1).cpu() == some[:, 1:]
                       for some in passages.split(batch_size)])  # right[:, i]: of the token after i + 1 of them
    results = []
    for prefix in prefixes:
        told = right[:, prefix - 1:][:, :continuation].long().cumprod(dim=1).sum(dim=1)  # before the first error
        results.append(Recall(prefix, continuation, len(told), (told == continuation).double().mean().item(),
                              told.double().mean().item()))
    return results


@torch.inference_mode()
def recited(model: GPT, tokens: np.ndarray, start: int, prefix: int, context: int) -> Recitation:
    """What a model writes after it read `prefix` tokens of a text (N,) from `start` on, always the likeliest token, and
    as far as a passage of `recall` goes. The text must go on so far. Leaves the model in eval mode.

    As there, one pass over the text shows what is said up to the first error; the rest is written token by token.
    """
    model.eval()
    text = tokens[start:start + prefix + min(CONTINUATION, context - prefix)].tolist()
    idx = torch.tensor([text], device=model.wte.weight.device)
    told = model(idx[:, :-1]).argmax(dim=-1)[0, prefix - 1:]
    right = int((told == idx[0, prefix:]).long().cumprod(dim=0).sum())
    rest = generate(model, idx[:, :prefix + right], len(text) - prefix - right, context, temperature=0)
    return Recitation(text[:prefix], text[prefix:prefix + right] + [token.item() for token in rest], right)


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
    ids = np.array(encoding().encode(sample, allowed_special="all"), dtype=np.uint16)
    quoted, longest = index.quoted(ids), index.longest_quotation(ids)
    cuts = [0, *(np.flatnonzero(np.diff(quoted)) + 1).tolist(), len(ids)]
    stretches = [slice(a, b) for a, b in itertools.pairwise(cuts) if b > a]
    pieces = list(zip(decoded(*(ids[stretch] for stretch in stretches)),
                      (bool(quoted[stretch.start]) for stretch in stretches), strict=True))
    words, = decoded(ids[longest])
    return Quotation(pieces, float(quoted.mean()) if len(ids) else 0.0, words, longest.stop - longest.start)


def asked_twice(model: GPT, tokens: np.ndarray, starts: np.ndarray, prefix: int, context: int,
                apart: int = 7) -> list[dict[str, Any]]:
    """The same lines of a text (N,), asked from the middle one of those `starts` that leave room for it, and from
    `apart` tokens later: what was read, what was said that is the text's and what from the first error on, each as
    text, and how many tokens of how many were right. Empty where there is no room. Leaves the model in eval mode."""
    room = starts[starts + apart + prefix + CONTINUATION <= len(tokens)]
    asked, middle = [], room[len(room) // 2:][:1]
    for begin in (*middle, *middle + apart):
        came = recited(model, tokens, int(begin), prefix, context)
        read, right, wrong = decoded(came.read, came.said[:came.right], came.said[came.right:])
        asked.append({"begins": int(begin), "read": read, "right": right, "wrong": wrong, "right_tokens": came.right,
                      "tokens": len(came.said)})
    return asked
