"""The model is GPT-2: shapes, counts, start, and the numbers of an independent implementation."""
import math

import numpy as np
import pytest
import torch

from lib.model.gpt import GPT, GPTConfig, KVCache, linear
from lib.presets import preset_config
from lib.text.corpus import load_corpus

SMALL = GPTConfig(n_layer=3, n_head=4, n_embd=64, block_size=48, vocab_size=300)


@pytest.fixture(scope="module")
def gpt2() -> GPT:
    torch.manual_seed(1337)
    return GPT(GPTConfig()).eval()


@pytest.fixture
def small() -> GPT:
    torch.manual_seed(1)
    return GPT(SMALL).eval()


def test_the_default_shape_has_124_439_808_parameters(gpt2):
    assert gpt2.num_parameters() == 124_439_808


def test_attention_that_adds_nothing_and_does_not_learn_is_not_computed(small):
    for block in small.h[1:]:
        torch.nn.init.zeros_(block.attn.c_proj.weight)
        torch.nn.init.normal_(block.attn.c_proj.bias)
    idx = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))
    computed = small(idx)
    layers = []
    for layer, block in enumerate(small.h):
        block.attn.c_attn.register_forward_hook(lambda *_, layer=layer: layers.append(layer))
    assert torch.equal(small.requires_grad_(False)(idx), computed) and layers == [0]
    small.h[2].attn.c_proj.weight.requires_grad_()
    small(idx).sum().backward()
    assert layers == [0, 0, 2] and small.h[2].attn.c_proj.weight.grad.abs().sum() > 0


def test_weights_start_as_gpt2s_do(gpt2):
    for name, p in gpt2.named_parameters():
        if name.endswith("c_proj.weight"):
            assert p.std().item() == pytest.approx(0.02 / math.sqrt(24), rel=0.02), name
        elif p.dim() == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.02), name
        else:
            assert p.unique().tolist() == [1.0 if "ln_" in name and name.endswith("weight") else 0.0], name


def test_initial_loss_is_that_of_random_logits(gpt2):
    tokens = load_corpus(preset_config("excerpt", max_tokens=1025)).tokens.astype(np.int64)
    x, y = torch.from_numpy(tokens[:-1]).view(2, 512), torch.from_numpy(tokens[1:]).view(2, 512)
    with torch.no_grad():
        loss = gpt2(x, y).item()
    assert 10.75 < loss < 11.20


def hugging_face_twin(model: GPT, activation: str):
    """transformers' GPT-2 with the same weights; its linear layers hold theirs transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel
    c = model.config
    twin = GPT2LMHeadModel(GPT2Config(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd, n_positions=c.block_size,
                                      vocab_size=c.vocab_size, activation_function=activation)).eval()
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {f"transformer.{name}": p.t() if name.endswith(transposed) else p
               for name, p in model.state_dict().items()}
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    return twin


@pytest.mark.parametrize(("activation", "equal"), [("gelu_new", True), ("gelu", False)])
def test_logits_equal_those_of_transformers_with_the_tanh_gelu_only(gpt2, activation, equal):
    idx = torch.randint(50257, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = gpt2(idx), hugging_face_twin(gpt2, activation)(idx).logits
    assert torch.allclose(ours, theirs, atol=2e-5, rtol=0) is equal


def test_gradients_equal_those_of_transformers(small):
    twin = hugging_face_twin(small, "gelu_new")
    idx = torch.randint(300, (2, 33), generator=torch.Generator().manual_seed(0))
    small(idx[:, :-1], idx[:, 1:]).backward()
    twin(idx, labels=idx).loss.backward()  # shifts the labels itself
    assert torch.allclose(small.wte.weight.grad, twin.transformer.wte.weight.grad, atol=1e-6)
    assert torch.allclose(small.h[0].mlp.c_fc.weight.grad, twin.transformer.h[0].mlp.c_fc.weight.grad.t(), atol=1e-6)


def test_logits_do_not_depend_on_later_tokens(gpt2):
    idx = torch.randint(50257, (1, 32), generator=torch.Generator().manual_seed(0))
    changed = idx.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 50257
    with torch.no_grad():
        difference = (gpt2(idx) - gpt2(changed)).abs().amax(dim=(0, 2))
    assert difference[:20].max() <= 1e-6
    assert difference[20:].min() > 1e-4


def test_the_cache_changes_nothing(small):
    idx = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))
    cache = KVCache(small, batch_size=2, capacity=48)
    with torch.no_grad():
        whole = small(idx)
        assert torch.allclose(small(idx[:, :10], cache=cache), whole[:, 9:10], atol=2e-5)
        for position in range(10, 40):
            step = small(idx[:, position:position + 1], cache=cache)
            assert torch.allclose(step, whole[:, position:position + 1], atol=2e-5)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=16, vocab_size=50, dropout=0.5))
    idx = torch.randint(50, (1, 16))
    assert not torch.equal(model(idx), model(idx))
    model.eval()
    assert torch.equal(model(idx), model(idx))


def test_a_context_beyond_the_positions_is_refused(small):
    with pytest.raises(ValueError, match="49 tokens is longer than block_size 48"):
        small(torch.zeros(1, 49, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 1, 6), (4, 1, 6), (7, 6), (8, 6), (2, 5, 6)])
def test_a_few_rows_are_multiplied_as_many_are(shape):
    x, weight, bias = torch.randn(shape), torch.randn(9, 6), torch.randn(9)
    for added in (None, bias):
        expected = torch.nn.functional.linear(x, weight, added)
        assert linear(x, weight, added).shape == expected.shape
        assert torch.allclose(linear(x, weight, added), expected, atol=1e-5)
