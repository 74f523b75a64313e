"""Claims about the softmax over the text's own tokens and a sample of the others."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib.model.gpt import GPT, GPTConfig
from lib.training import sampled_softmax
from lib.training.sampled_softmax import FIRST_STEPS, SampledSoftmax

V, UNUSED = 60, 48
TEXT = np.tile(np.arange(0, V, 5, dtype=np.uint16), 4)  # 12 of 60 tokens


@pytest.fixture
def draw(monkeypatch, machine):
    """A function (drawn, k, tokens=TEXT) -> candidates."""
    def candidates(drawn: int, k: int, tokens: np.ndarray = TEXT):
        monkeypatch.setattr(sampled_softmax, "DRAWN", drawn)
        return SampledSoftmax(tokens, V, seed=3, machine=machine).candidates(FIRST_STEPS, k)
    return candidates


def test_with_all_tokens_drawn_loss_and_gradients_are_those_of_the_whole_softmax(draw):
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=V))
    x = torch.from_numpy(TEXT.astype(np.int64)).view(6, 8)
    gradients = []
    for candidates in (None, draw(UNUSED, 0)):
        loss = model(x, x, candidates=candidates)
        gradients.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    for whole, over_candidates in zip(*gradients, strict=True):
        torch.testing.assert_close(over_candidates, whole, atol=1e-6, rtol=1e-5)


def test_over_one_round_of_draws_the_sum_of_exponentials_is_the_whole_one(draw):
    logits = torch.randn(V, generator=torch.Generator().manual_seed(0))
    sums = []
    for k in range(UNUSED // 8):
        candidates = draw(8, k)
        sums.append((logits[candidates.tokens] + candidates.log_weights).exp().sum())
    assert max(sums) > min(sums)
    torch.testing.assert_close(torch.stack(sums).mean(), logits.exp().sum())


def test_candidates_are_all_tokens_of_the_text_and_as_many_others_as_drawn(draw):
    candidates = draw(8, 5)
    tokens = candidates.tokens.tolist()
    assert tokens[:12] == sorted(set(TEXT.tolist())) and len(set(tokens)) == 20
    assert candidates.tokens[candidates.places[TEXT]].tolist() == TEXT.tolist()
    assert torch.equal(candidates.tokens, draw(8, 5).tokens)
    assert not torch.equal(candidates.tokens, draw(8, 6).tokens)


def test_a_text_of_all_tokens_leaves_none_to_draw(draw):
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(0))
    candidates, targets = draw(8, 7, np.arange(V, dtype=np.uint16)), torch.tensor([4, 9])
    loss = F.cross_entropy(logits[:, candidates.tokens] + candidates.log_weights, candidates.places[targets])
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))


def test_the_first_steps_are_over_all_tokens(machine):
    text = SampledSoftmax(TEXT, V, seed=3, machine=machine)
    assert text.candidates(FIRST_STEPS - 1, 0) is None and text.candidates(FIRST_STEPS, 0) is not None
