"""What is called quoted stands in the text, and what is called recalled came from the model."""
import time

import numpy as np
import pytest
import torch

from lib.model.gpt import GPT, GPTConfig
from lib.model.memorisation import quotation, recall, recited
from lib.model.sampling import generate
from lib.text.default_text import default_text
from lib.text.ngrams import PART, NgramIndex
from lib.text.tokenizer import encoding

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
    """A model that knows the text 1, 2, 3 ... up to a token, and says 0 from there on."""

    def __init__(self, knows):
        super().__init__()
        self.wte, self.knows = torch.nn.Embedding(1, 1), knows

    def forward(self, idx):
        return torch.nn.functional.one_hot(torch.where(idx < self.knows, idx + 1, 0), 500)


def test_recall_counts_what_came_back():
    text = np.arange(1, 401).astype(np.uint16)
    starts = np.array([0, 100, 200, 310, 390])
    short, long = recall(Parrot(knows=290), text, starts, prefixes=(32, 40), context=128, batch_size=2)
    # from 0, 100 and 200 all comes back; from 310 nothing, and 390 is too near the end
    assert (short.prefix, short.continuation, short.passages, short.exact, short.tokens) == (32, 50, 4, 0.75, 37.5)
    assert (long.prefix, long.passages, long.exact, long.tokens) == (40, 4, 0.75, 37.5)
    assert short.exact_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    [result] = recall(Parrot(knows=240), text, starts, prefixes=(32,), context=128)
    assert (result.exact, result.tokens) == (0.5, (50 + 50 + 8 + 0) / 4)
    [result] = recall(Parrot(knows=240), text, starts, prefixes=(32,), context=48)
    assert (result.continuation, result.exact, result.tokens) == (16, 0.5, (16 + 16 + 8 + 0) / 4)
    [none] = recall(Parrot(knows=1), text, np.array([395]), prefixes=(32,), context=128)
    assert none.passages == 0 and np.isnan([none.exact, none.exact_error, none.tokens]).all()


def test_recall_says_what_writing_greedily_would_give():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64)).eval()
    beginnings = torch.randint(50257, (4, 16))
    written = torch.stack(list(generate(model, beginnings, 48, 64, temperature=0)), dim=1)
    right = [48, 20, 1, 0]
    for row, count in enumerate(right[1:], start=1):
        written[row, count] += 1  # what the model says here is not what the text has
    text = torch.cat((beginnings, written), dim=1).flatten().numpy().astype(np.uint16)
    [result] = recall(model, text, np.arange(0, 256, 64), prefixes=(16,), context=64, batch_size=3)
    assert (result.continuation, result.exact, result.tokens) == (48, 0.25, sum(right) / 4)


def test_a_recitation_is_right_up_to_its_first_error():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64)).eval()
    read = torch.randint(50257, (1, 16))
    said = torch.cat(list(generate(model, read, 48, 64, temperature=0))).tolist()
    text = np.array([5, *read[0].tolist(), *said[:20], (said[20] + 1) % 50257, *said[21:]], np.uint16)
    result = recited(model, text, start=1, prefix=16, context=64)
    assert (result.read, result.said, result.right) == (read[0].tolist(), said, 20)


def test_three_million_tokens_are_indexed_and_searched_in_seconds():
    tokens = np.random.default_rng(0).integers(50257, size=3_000_000).astype(np.uint16)
    begin = time.perf_counter()
    index = NgramIndex(tokens)
    for start in (*range(0, 1_900_000, 100_000), PART - 50):
        assert index.longest_quotation(tokens[start:start + 200]) == slice(0, 200)
    assert time.perf_counter() - begin < 30
