"""Text, tokens, windows and batches are what they are said to be, and the loss floor is the true one."""
import collections
import dataclasses
import hashlib
import math
import time

import numpy as np
import pytest
from conftest import SHAKESPEARE

from lib.config import InputError
from lib.presets import preset_config
from lib.text import corpus as corpus_module
from lib.text.corpus import Batches, load_corpus, opening, window_starts
from lib.text.default_text import default_text
from lib.text.floor import counted_losses, loss_floor, position_floors, reachable_floor
from lib.text.tokenizer import encode_prompt, encoding, pieces, tokenize

DEFAULT_SHA256 = "cf6b721817512dfddba897bf98d895c27ecbce1caf610e4038a5e3a3deb80c19"


def test_the_default_text_is_always_the_same():
    text = default_text()
    assert hashlib.sha256(text.encode()).hexdigest() == DEFAULT_SHA256
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n")
    assert "\nBIANCA:\n" in text and not set("_*\\#") & set(text)


def test_a_missing_default_file_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpus_module, "ROOT", tmp_path)
    monkeypatch.setattr(corpus_module, "DEFAULT_FILE", tmp_path / "data" / "input.txt")
    made = load_corpus(preset_config("excerpt"))
    assert made.sha256 == DEFAULT_SHA256 and len(made.tokens) == 4096
    assert made.path.read_bytes() == default_text().encode() and "--input_file" in capsys.readouterr().out


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tiny Shakespeare is not on this machine")
def test_tiny_shakespeare_gives_338_025_tokens_and_the_known_floors():
    corpus = load_corpus(preset_config("full", input_file=str(SHAKESPEARE)))
    assert len(corpus.tokens) == 338_025 and len(set(corpus.tokens.tolist())) == 11_706
    assert encoding().decode_bytes(corpus.tokens.tolist()) == SHAKESPEARE.read_bytes()
    assert loss_floor(corpus.tokens, 64, "random") == pytest.approx(0.1002, abs=5e-5)
    assert loss_floor(corpus.tokens, 256, "epoch") == pytest.approx(0.0251, abs=5e-5)
    assert loss_floor(corpus.tokens, 32, "sequential") == pytest.approx(0.1014, abs=5e-5)


def floor_by_counting(windows) -> float:
    """The best possible mean loss, from the definition: every target predicted by its frequency after its context."""
    total, length = 0.0, len(windows[0]) - 1
    for t in range(1, length + 1):
        contexts = collections.Counter(tuple(w[:t]) for w in windows)
        pairs = collections.Counter(tuple(w[:t + 1]) for w in windows)
        total -= sum(n / len(windows) * math.log(n / contexts[pair[:t]]) for pair, n in pairs.items())
    return total / length


@pytest.mark.parametrize("seq_len", [1, 2, 3, 5, 8])
def test_the_floor_is_that_of_a_perfect_memory(seq_len):
    tokens = np.random.default_rng(0).integers(3, size=200).astype(np.uint16)
    overlapping = [tokens[i:i + seq_len + 1].tolist() for i in range(len(tokens) - seq_len)]
    assert loss_floor(tokens, seq_len, "random") == pytest.approx(floor_by_counting(overlapping))
    fixed = [overlapping[start] for start in window_starts(len(tokens), seq_len)]
    assert loss_floor(tokens, seq_len, "sequential") == pytest.approx(floor_by_counting(fixed))
    for order in ("random", "sequential"):  # by the chain rule the floors of the positions add up to the window's
        by_position = position_floors(tokens, seq_len, order, positions=seq_len)
        assert len(by_position) == seq_len and by_position.mean() == pytest.approx(loss_floor(tokens, seq_len, order))
    first = position_floors(tokens, seq_len, "sequential", positions=1)  # of the windows of this length, not of pairs
    assert first == pytest.approx([floor_by_counting([window[:2] for window in fixed])])


def test_tables_lose_what_counting_by_hand_says():
    tokens = np.array([1, 2, 1, 3, 1, 2, 1, 3, 1], np.uint16)  # 1 in 5 of 9; behind it 2 and 3 in turn, behind those 1
    nothing, single, pairs = counted_losses(tokens).values()
    assert nothing == pytest.approx(np.log(50257))
    assert single == pytest.approx(-(5 * np.log(5 / 9) + 4 * np.log(2 / 9)) / 9)
    assert pairs == pytest.approx(np.log(2) / 2)


def test_a_target_below_the_floor_is_refused_with_the_length_that_would_do():
    tokens = np.random.default_rng(0).integers(50, size=4000).astype(np.uint16)
    config = preset_config("tiny", seq_len=4, target_loss=0.4)
    with pytest.raises(InputError, match="use --seq_len 16"):
        reachable_floor(tokens, config)
    assert loss_floor(tokens, 16, "epoch") < 0.4 < loss_floor(tokens, 8, "epoch")
    no_target = dataclasses.replace(config, target_loss=0.0)
    assert reachable_floor(tokens, no_target) == loss_floor(tokens, 4, "epoch")


def test_the_windows_whose_floor_refuses_a_target_are_named():
    tokens = np.random.default_rng(0).integers(50, size=4000).astype(np.uint16)
    for order, cut in (("fixed", "from its start"), ("sequential", "from its start"), ("epoch", "anywhere"),
                       ("random", "anywhere")):
        floor = loss_floor(tokens, 4, order)
        config = preset_config("tiny", seq_len=4, order=order, target_loss=floor)
        with pytest.raises(InputError, match=f"cut {cut} into windows of seq_len 4: their floor is {floor:.6f}"):
            reachable_floor(tokens, config)
        assert reachable_floor(tokens, dataclasses.replace(config, target_loss=1.001 * floor)) == floor
    assert loss_floor(tokens, 4, "fixed") < loss_floor(tokens, 4, "epoch")


@pytest.mark.parametrize(("length", "seq_len"), [(33, 32), (100, 32), (129, 32), (4096, 128), (1000, 7)])
def test_windows_cover_every_target_at_every_offset(length, seq_len):
    for offset in range(seq_len + 1):
        starts = window_starts(length, seq_len, offset)
        assert starts.min() >= 0 and starts.max() + seq_len + 1 <= length
        assert set((starts[:, None] + np.arange(1, seq_len + 1)).ravel()) == set(range(1, length))


@pytest.mark.parametrize("order", ["epoch", "fixed", "random", "sequential"])
def test_a_batch_depends_on_the_seed_and_its_number_alone(order):
    tokens = np.arange(1000).astype(np.uint16)
    config = preset_config("tiny", order=order)
    one, other = Batches(tokens, config), Batches(tokens, config)
    forward = [one.starts(k).tolist() for k in range(50)]
    assert [other.starts(k).tolist() for k in reversed(range(50))] == forward[::-1]
    x, y = one.batch(3)
    assert x.shape == y.shape == (4, 32) and x.dtype == np.int64
    assert (y == x + 1).all()  # the tokens count up, so the next one is one more
    changed = Batches(tokens, preset_config("tiny", order=order, seed=7))
    assert ([changed.starts(k).tolist() for k in range(50)] == forward) is (order == "sequential")


def test_an_epoch_has_every_window_once_and_the_next_one_other_windows():
    batches = Batches(np.arange(1000).astype(np.uint16), preset_config("tiny", batch_size=1))
    n = batches.windows_per_epoch
    first, second = ([batches.starts(k).item() for k in range(e * n, (e + 1) * n)] for e in (0, 1))
    for epoch in (first, second):
        inner = sorted(set(epoch))[1:-1]  # the outer ones are moved inside the text
        assert set(np.diff(inner)) == {32} and epoch != sorted(epoch)
    assert sorted(first) != sorted(second)


def test_fixed_order_has_the_same_windows_every_epoch_in_another_order():
    batches = Batches(np.arange(1000).astype(np.uint16), preset_config("tiny", batch_size=1, order="fixed"))
    n = batches.windows_per_epoch
    first, second = ([batches.starts(k).item() for k in range(e * n, (e + 1) * n)] for e in (0, 1))
    assert first != second and sorted(first) == sorted(second) == [*range(0, 961, 32), 967]


def test_sequential_order_goes_through_the_text_again_and_again():
    batches = Batches(np.arange(200).astype(np.uint16), preset_config("tiny", order="sequential"))
    assert [batches.starts(k).tolist() for k in range(2)] == [[0, 32, 64, 96], [128, 160, 167, 0]]


@pytest.mark.parametrize(("content", "message"), [
    (None, "there is no text file"),
    (b"", "0 tokens, fewer than one window"),
    (b"too short", "lower --seq_len"),
    (b"\xff\xfe\x00w", "not UTF-8 text"),
    (b"caf\xe9" * 100, "not UTF-8 text \\(byte 3\\)"),
    (b"\x7fELF\0\0" * 100, "zero bytes"),
])
def test_a_file_that_cannot_be_learned_is_refused(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_corpus(preset_config("tiny", input_file=str(path)))


@pytest.mark.parametrize("piece_bytes", [7, 40, 1000])
def test_a_text_cut_into_pieces_has_the_tokens_of_the_whole(piece_bytes, tmp_path):
    rng = np.random.default_rng(0)
    alphabet = ["\n", "\n", "\n\n", " ", "  ", "\t", "\r\n", "\x1c", "\u2003", "'s", "a", "Über", "42", ",", "日",
                "<|endoftext|>"]
    noise = "".join(alphabet[i] for i in rng.integers(len(alphabet), size=20_000))
    for text in (noise, default_text()[:30_000], "", "\n", "no line break"):
        (tmp_path / "text.txt").write_bytes(text.encode())
        cut = list(pieces(tmp_path / "text.txt", piece_bytes))
        assert "".join(cut) == text and (len(cut) > 1 or len(text) < 20)
        assert np.concatenate([*tokenize(cut)]).tolist() == encoding().encode(text, allowed_special="all")


def test_the_tokens_of_a_large_text_are_kept(tmp_path, monkeypatch, text_file):
    monkeypatch.setattr(corpus_module, "TOKENS", tmp_path / "tokens")
    monkeypatch.setattr(corpus_module, "LARGE", 1000)
    text = tmp_path / "text.txt"
    text.write_bytes(text_file.read_bytes())
    config = preset_config("tiny", input_file=str(text), max_tokens=0)
    first = load_corpus(config)
    kept = tmp_path / "tokens" / f"{first.sha256}.gpt2"
    assert list(kept.parent.iterdir()) == [kept]
    assert first.tokens.tolist() == encoding().encode_ordinary(text.read_text("utf-8"))
    kept.write_bytes(np.full(300, 7, np.uint16))  # so it shows where tokens are read from
    assert load_corpus(config).tokens.tolist() == [7] * 300
    assert load_corpus(dataclasses.replace(config, max_tokens=50)).tokens.tolist() == [7] * 50
    text.write_text(text.read_text("utf-8") + "Another end.\n", "utf-8")
    assert load_corpus(config).tokens.tolist()[-4:] == encoding().encode_ordinary("Another end.\n")


def test_a_prompt_longer_than_the_context_is_refused(text_file):
    load_corpus(preset_config("tiny", input_file=str(text_file), prompt="word " * 16))
    with pytest.raises(InputError, match=r"the prompt has 41 tokens and the model sees 32 \(seq_len\)"):
        load_corpus(preset_config("tiny", input_file=str(text_file), prompt="word " * 40))


@pytest.mark.parametrize("line", ["a", "to be or not to be ", "x9$"])
def test_a_text_of_one_huge_line_is_read_in_time(tmp_path, line):
    path = tmp_path / "line.txt"
    path.write_text(line * (3_000_000 // len(line)))
    begin = time.perf_counter()
    corpus = load_corpus(preset_config("tiny", input_file=str(path)))
    assert len(corpus.tokens) == 512 and time.perf_counter() - begin < 20


def test_how_a_text_begins_is_what_a_model_of_it_is_prompted_with():
    tokens = load_corpus(preset_config("tiny")).tokens
    assert opening(tokens, 64) == "First Citizen:\nBefore we proceed any further, hear me speak.\n\n"
    assert encode_prompt(opening(tokens, 64), 64) == tokens[:16].tolist()  # both line breaks, as before a name
    assert opening(tokens, 16) == "First Citizen:\nBefore we proceed any"
    cut = np.array(encoding().encode("春" * 20), np.uint16)
    assert set(opening(cut, 64)) == {"春"}
