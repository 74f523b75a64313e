"""What is shown of a model's inside is what goes on there."""
import numpy as np
import pytest
import torch

from lib.model.gpt import new_model
from lib.model.inspection import attention_weights, averaging, logit_lens, neighbours, shaded, telling_heads


def test_a_head_that_averages_looks_at_all_it_may_alike_and_is_itself_again_afterwards(config, machine):
    model = new_model(config, machine.device).eval()
    idx, before = torch.randint(50257, (9,)), {name: part.clone() for name, part in model.state_dict().items()}
    with averaging(model):
        weights = attention_weights(model, idx)
    even = torch.tril(torch.ones(9, 9)) / torch.arange(1, 10)[:, None]
    assert torch.allclose(weights, even.expand_as(weights), atol=1e-6)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


def test_attention_weights_are_those_that_the_model_uses(config, machine):
    model = new_model(config, machine.device).eval()
    idx, seen = torch.randint(50257, (9,)), []
    attn = model.h[1].attn
    hook = attn.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    weights = attention_weights(model, idx)
    hook.remove()
    assert weights.shape == (2, 2, 9, 9) and not attn.c_attn._forward_hooks
    (x, output), = seen
    with torch.no_grad():
        v = attn.c_attn(x).chunk(3, dim=2)[2].view(9, 2, -1).transpose(0, 1)  # (nh, T, hs)
        expected = attn.c_proj((weights[1] @ v).transpose(0, 1).reshape(1, 9, -1))
    assert torch.allclose(output, expected, atol=1e-6)


def test_after_the_last_block_the_lens_shows_what_the_model_says(config, machine):
    model = new_model(config, machine.device).eval()
    idx = torch.randint(50257, (9,))
    told, losses = logit_lens(model, idx)
    assert told.shape == losses.shape == (config.n_layer + 1, 8) and not model.h[0]._forward_pre_hooks
    with torch.no_grad():
        assert torch.equal(told[-1], model(idx[None])[0, :-1].argmax(dim=1))
        assert torch.isclose(losses[-1].mean(), model(idx[None, :-1], idx[None, 1:]), atol=1e-5)
        embedded = model.ln_f(model.wte(idx) + model.wpe(torch.arange(9))) @ model.wte.weight.T
    assert torch.equal(told[0], embedded[:-1].argmax(dim=1))


def test_the_head_that_has_a_habit_is_found():
    tokens = np.array([5, 6, 7, 5, 6, 7])
    weights = torch.full((2, 2, 6, 6), 0.01)
    weights[0, 1, range(1, 6), range(5)] = 0.5  # looks at the token before
    weights[1, 0, range(3, 6), range(3)] = 0.7  # at the same token earlier
    weights[1, 1, range(3, 6), [1, 2, 3]] = 0.9  # at what followed it there
    weights[0, 0, 2:, 0] = 0.8
    found = {habit: place for habit, (*place, _) in telling_heads(weights, tokens).items()}
    assert found == {"the token before": [0, 1], "the first token": [0, 0], "the same token earlier": [1, 0],
                     "what followed it earlier": [1, 1]}
    share = telling_heads(weights, tokens)["the same token earlier"][2]
    assert share == pytest.approx(0.7)
    assert set(telling_heads(weights[..., :3, :3], tokens[:3])) == {"the token before", "the first token"}


def test_neighbours_point_the_same_way_and_are_among_those_named():
    table = torch.tensor([[1.0, 0], [0.9, 0.1], [5, 5], [0, 1], [-1, 0]])
    among = torch.tensor([0, 1, 2, 4])
    assert neighbours(table, [0, 2], among, count=2) == [[1, 2], [1, 0]]
    assert neighbours(table, [0], among, count=9) == [[1, 2, 4]]


def test_shaded_tokens_carry_their_loss_and_stay_text():
    page = shaded(np.array([27, 65, 29, 198]), np.array([0.0, 4.0, 99.0, 1.0]))  # "<", "b", ">" and a line break
    assert "<b>" not in page and "&lt;</span>" in page and "↵\n</span>" in page
    assert [f"0, {share})" in page for share in ("0.00", "0.30", "0.60", "0.07")] == [True] * 4
