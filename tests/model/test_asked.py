"""The same lines, asked from two places, are told as they stand in the text and as the model went on."""
import numpy as np
import torch

from lib.model.gpt import GPT, GPTConfig
from lib.model.memorisation import CONTINUATION, asked_twice
from lib.text.tokenizer import decoded, encoding


def test_both_are_asked_of_the_same_passage_and_told_as_text():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=96))
    tokens = np.random.default_rng(0).integers(50257, size=200).astype(np.uint16)
    room = 200 - 7 - 16 - CONTINUATION
    first, second = asked_twice(model, tokens, np.array([3, 20, 40, room + 1]), prefix=16, context=96)
    assert (first["begins"], second["begins"]) == (20, 27)
    for asked in (first, second):
        begin = asked["begins"]
        text = tokens[begin:begin + 16 + asked["right_tokens"]]
        assert [asked["read"], asked["right"]] == decoded(text[:16], text[16:])
        assert asked["tokens"] == CONTINUATION and 0 <= asked["right_tokens"] < CONTINUATION
        assert asked["wrong"]
    assert asked_twice(model, tokens[:60], np.array([0]), prefix=16, context=96) == []


def test_text_that_was_cut_within_characters_has_none_but_its_own():
    text = "第一位市民：在我们继续前进之前，听我说。"
    tokens = encoding().encode(text)
    assert len(tokens) > len(text)
    for a in range(len(tokens)):
        for b in range(a, len(tokens)):
            pieces = decoded(tokens[:a], tokens[a:b], tokens[b:])
            assert "".join(pieces) == text and "".join(decoded(tokens[a:b])) in text
    assert decoded([*encoding().encode("ab"), 94, *encoding().encode("c")]) == ["ab\\xa1c"]
    assert decoded() == []
