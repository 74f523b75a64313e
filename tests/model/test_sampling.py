"""Samples come from the model's own predictions, within the positions it was trained on, and disturb nothing."""
import dataclasses

import pytest
import torch

from lib.model.gpt import GPT, GPTConfig, new_model
from lib.model.sampling import (
    choose,
    generate,
    likeliest_paths,
    next_token_probabilities,
    sample_texts,
    visible_from,
)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(3)
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=100)).eval()


@pytest.mark.parametrize(("prompt", "context"), [(1, 64), (5, 16), (16, 16), (40, 16), (3, 1)])
def test_cached_and_uncached_give_the_same_greedy_tokens_across_the_context_limit(model, prompt, context):
    idx = torch.randint(100, (2, prompt), generator=torch.Generator().manual_seed(0))
    cached = torch.stack(list(generate(model, idx, 60, context, temperature=0)), dim=1)
    with torch.no_grad():
        for place in range(60):
            visible = idx[:, visible_from(idx.size(1), context):]
            assert 0 < visible.size(1) <= context
            expected = model(visible)[:, -1].argmax(-1)
            assert torch.equal(cached[:, place], expected), f"token {place}"
            idx = torch.cat((idx, expected[:, None]), dim=1)


def test_no_position_beyond_the_context_is_used(model):
    largest = []
    model.wpe.register_forward_hook(lambda module, args, out: largest.append(args[0].max().item()))
    list(generate(model, torch.zeros(1, 3, dtype=torch.long), 50, context=16))
    assert max(largest) == 15


def test_the_likeliest_ways_have_the_models_own_probabilities(model):
    idx = torch.randint(100, (1, 5), generator=torch.Generator().manual_seed(0))
    ways, shares = likeliest_paths(model, idx, 64, (3, 2), temperature=0.5)
    assert ways.shape == shares.shape == (6, 2) and ways[0, 0] == ways[1, 0] != ways[2, 0]
    for way, chances in zip(ways, shares, strict=True):
        with torch.no_grad():
            logits = model(torch.cat((idx[0], way))[None])[0, 4:6]  # before the first of the way and before the second
        assert torch.allclose(chances, next_token_probabilities(logits, 0.5)[[0, 1], way], atol=1e-6)
    assert [token.item() for token in generate(model, idx, 2, 64, temperature=0)] == ways[0].tolist()
    assert (shares[::2, 1] >= shares[1::2, 1]).all() and shares[0, 0] >= shares[2, 0] >= shares[4, 0]


def test_probabilities_follow_temperature_and_top_k():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    plain = next_token_probabilities(logits)
    assert torch.allclose(plain, logits.softmax(-1))
    assert torch.allclose(next_token_probabilities(logits, temperature=0.5), (2 * logits).softmax(-1))
    two = next_token_probabilities(logits, top_k=2)
    assert two[0, 2:].tolist() == [0, 0] and torch.allclose(two[0, :2], plain[0, :2] / plain[0, :2].sum())
    assert torch.equal(next_token_probabilities(logits, top_k=9), plain)
    assert choose(logits, 0, 0, None).item() == 0


def test_drawn_tokens_have_the_predicted_frequencies():
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(20_000, 3)
    drawn = choose(logits, 1.0, 0, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.bincount() / 20_000, logits[0].softmax(-1), atol=0.015)
    drawn = choose(logits.flip(1), 0.5, 2, torch.Generator().manual_seed(0))
    expected = next_token_probabilities(logits[:1].flip(1), 0.5, 2)[0]
    assert expected[0] == 0 and torch.allclose(drawn.bincount() / 20_000, expected, atol=0.015)


def test_samples_leave_the_global_generator_alone_and_depend_on_seed_and_step(config, machine):
    model = new_model(config, machine.device)
    config = dataclasses.replace(config, num_prompts=3)
    before = torch.get_rng_state()
    texts = sample_texts(model, "First Citizen:\n", config, step=10)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(texts) == len(set(texts)) == 3 and all(text.startswith("First Citizen:\n") for text in texts)
    again, later = (sample_texts(model, "First Citizen:\n", config, step) for step in (10, 20))
    assert again == texts != later
