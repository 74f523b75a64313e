"""What is called quoted stands in the text, and what is called recalled came from the model."""
import time

import numpy as np
import torch

from lib.corpus import default_text
from lib.memorisation import CONTINUATION, quotation, recall
from lib.ngrams import NgramIndex
from lib.tokenizer import encoding

TEXT = default_text()[:30_000]
TOKENS = np.array(encoding().encode_ordinary(TEXT), dtype=np.uint16)


def test_quotations_are_those_that_a_search_finds():
    rng = np.random.default_rng(0)
    text = rng.integers(4, size=3000).astype(np.uint16)  # so few that many stretches come again and again
    index = NgramIndex(text, n=6)
    raw = text.tobytes()

    def stands(part: np.ndarray) -> bool:
        return any(raw.find(part.tobytes(), at) == at for at in _even(raw, part.tobytes()))

    for _ in range(20):
        sample = rng.integers(4, size=40).astype(np.uint16)
        sample[5:25] = text[700:720]
        hits = [stands(sample[i:i + 6]) for i in range(35)]
        expected = np.array([any(hits[max(0, i - 5):i + 1]) for i in range(40)])
        assert (index.quoted(sample) == expected).all()
        longest = max((j - i for i in range(40) for j in range(i + 6, 41) if stands(sample[i:j])), default=0)
        found = index.longest_quotation(sample)
        assert found.stop - found.start == longest >= 20 and stands(sample[found])


def _even(raw: bytes, part: bytes):
    at = raw.find(part)
    while at >= 0:
        if at % 2 == 0:
            yield at
        at = raw.find(part, at + 1)


def test_a_sample_is_cut_into_what_is_quoted_and_what_is_not():
    index = NgramIndex(TOKENS)
    middle = encoding().decode(TOKENS[1000:1030].tolist())
    sample = "Here is a sentence about bicycles." + middle + " and a telephone rang."
    result = quotation(sample, index)
    assert "".join(piece for piece, _ in result.pieces) == sample
    assert [quoted for _, quoted in result.pieces] == [False, True, False]
    assert result.longest.strip() in middle and 28 <= result.longest_tokens <= 32 and 0.4 < result.share < 0.8
    for sample in ("", "short", "nothing of this telephone conversation was ever printed in a play about bicycles"):
        nothing = quotation(sample, index)
        assert (nothing.share, nothing.longest, nothing.longest_tokens) == (0, "", 0)
    assert quotation("<script>" + middle, index).marked().startswith("&lt;script&gt;<mark>")
    whole = quotation(encoding().decode(TOKENS[:500].tolist()), index)
    assert whole.share == 1 and whole.longest_tokens == 500


class Parrot(torch.nn.Module):
    """A model that knows a text by heart up to a place, and says token 0 from there on."""

    def __init__(self, knows):
        super().__init__()
        self.wte, self.knows = torch.nn.Embedding(1, 1), knows


def test_recall_counts_what_came_back(monkeypatch):
    text = np.arange(1, 401).astype(np.uint16)

    def parrot(model, idx, n, context, temperature):
        assert temperature == 0 and context == 128
        for step in range(1, n + 1):
            following = idx[:, -1] + step
            yield torch.where(following > model.knows, 0, following)

    monkeypatch.setattr("lib.memorisation.generate", parrot)
    starts = np.array([0, 100, 200, 310, 390])
    result = recall(Parrot(knows=290), text, starts, prefix=32, context=128, batch_size=2)
    # from 0 and 100 all comes back, from 200 the tokens 233 to 282; from 310 none, and 390 is too near the end
    assert (result.passages, result.exact, result.tokens) == (4, 0.75, 3 * CONTINUATION / 4)
    result = recall(Parrot(knows=240), text, starts, prefix=32, context=128)
    assert (result.exact, result.tokens) == (0.5, (50 + 50 + 8 + 0) / 4)
    assert recall(Parrot(knows=1), text, np.array([395]), prefix=32, context=128).passages == 0


def test_three_million_tokens_are_indexed_and_searched_in_seconds():
    tokens = np.random.default_rng(0).integers(50257, size=3_000_000).astype(np.uint16)
    begin = time.perf_counter()
    index = NgramIndex(tokens)
    for _ in range(20):
        assert index.longest_quotation(tokens[5000:5200]) == slice(0, 200)
    assert time.perf_counter() - begin < 30
