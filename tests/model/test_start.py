"""Starts that look back and that are empty memories do what they say, and are GPT-2s like any other."""
import pytest
import torch

from lib.config import InputError
from lib.model.gpt import new_model
from lib.model.inspection import attention_weights
from lib.model.start import origin
from lib.presets import preset_config
from lib.training.optimizer import make_optimizers

SHAPE = dict(n_layer=2, n_head=12, n_embd=768, block_size=256, seq_len=32)


@pytest.fixture(scope="module")
def model():
    return new_model(preset_config("tiny", **SHAPE, init="look_back")).eval()


def test_each_head_of_the_first_layer_looks_at_its_own_token_before(model):
    idx = torch.randint(50257, (200,), generator=torch.Generator().manual_seed(0))
    weights = attention_weights(model, idx)[0]  # (nh, T, T)
    for h in range(12):
        assert weights[h].diagonal(-h)[20:].mean() > 0.9


def test_where_a_passage_stands_changes_nothing_once_its_context_is_full(model):
    idx = torch.randint(50257, (1, 60), generator=torch.Generator().manual_seed(0))
    hidden = []
    model.h[0].register_forward_hook(lambda module, inputs, output: hidden.append(output.detach()))
    for start in (0, 20):
        with torch.inference_mode():
            model(idx[:, start:])
    early, late = hidden[0][0, 40:, :704], hidden[1][0, 20:, :704]  # without the channels of positions
    assert torch.nn.functional.cosine_similarity(early, late, dim=1).min() > 0.95


def test_all_else_begins_as_gpt2_does():
    ours, theirs = (new_model(preset_config("tiny", **SHAPE, init=init)).state_dict() for init in ("look_back", "gpt2"))
    assert ours.keys() == theirs.keys()
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert {name for name in ours if name.startswith("h.1.") and "ln" not in name} <= same
    assert torch.equal(ours["wte.weight"][:, :704], theirs["wte.weight"][:, :704])
    assert ours["h.0.attn.c_proj.weight"].std().item() == pytest.approx(0.02, rel=0.02)


@pytest.fixture
def memory():
    return new_model(preset_config("tiny", **SHAPE, init="key_value", optimizer="sgd"))


def hidden_units(model, idx):
    """What the hidden units of all layers say for each token of idx (1, T): (T, n_layer * 4 C)."""
    said = []
    hooks = [block.mlp.c_proj.register_forward_pre_hook(lambda module, inputs: said.append(inputs[0][0]))
             for block in model.h]
    with torch.inference_mode():
        model(idx)
    for hook in hooks:
        hook.remove()
    return torch.cat(said, dim=1)


def test_an_empty_memory_has_a_few_units_for_a_context_wherever_it_stands_and_others_for_others(memory):
    idx = torch.randint(50257, (1, 60), generator=torch.Generator().manual_seed(0))
    keys = hidden_units(memory, idx)[30:]
    assert 0.0005 < (keys > 1).float().mean() < 0.01
    keys = torch.nn.functional.normalize(keys, dim=1)
    again = torch.nn.functional.normalize(hidden_units(memory, idx[:, 10:])[20:], dim=1)
    alike = keys @ again.T
    assert alike.diagonal().min() > 0.9 and (alike - torch.diag(alike.diagonal())).mean() < 0.05


def test_one_plain_step_writes_what_comes_next_and_nothing_else(memory):
    config = preset_config("tiny", **SHAPE, init="key_value", optimizer="sgd", lr=0.4)
    windows = torch.randint(5000, (2, 65), generator=torch.Generator().manual_seed(0))
    before = {name: weight.clone() for name, weight in memory.state_dict().items()}
    (optimizer,) = make_optimizers(memory, config)

    def changed_by_a_step_on(window):
        optimizer.zero_grad()
        memory(window[None, :-1], window[None, 1:]).backward()
        optimizer.step()
        return {name for name, weight in memory.state_dict().items() if not torch.equal(weight, before[name])}

    values = {"h.0.mlp.c_proj.weight", "h.1.mlp.c_proj.weight"}
    assert changed_by_a_step_on(windows[0]) == values
    with torch.inference_mode():
        read, unread = (memory(window[None, :-1], window[None, 1:]).item() for window in windows)
    assert read < 2 and 10 < unread < 12.5
    # once something is written, its keys learn as well
    assert changed_by_a_step_on(windows[1]) == values | {"h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"}
    written = memory.h[0].mlp.c_proj.weight.abs().sum(dim=1) > 0
    assert torch.equal(written, memory.ln_f.weight != 0)  # the code, by which others look up, stays as it is
    read_of = [block.mlp.c_fc.weight.grad.abs().sum(dim=0) > 0 for block in memory.h]  # channels
    units = 4 * memory.config.n_embd
    assert sum(units * (channels.sum() + written.sum()) for channels in read_of) == config.learning_parameters


def test_what_a_run_begins_with_is_said():
    assert origin(preset_config("tiny")) == "random weights"
    assert "set to look at the tokens just before" in origin(preset_config("tiny", init="look_back"))
    assert origin(preset_config("tiny", init="look_back", init_from="runs/x")) == "the weights of x"
    with pytest.raises(InputError, match="n_head"):
        preset_config("tiny", init="look_back", n_head=1)
    assert "empty memories" in origin(preset_config("tiny", init="key_value", optimizer="sgd"))
