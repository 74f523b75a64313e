"""The first screen says what became of a run, in each state the right sentence, and nothing that its files do not."""
import itertools
import re

import pytest

from lib.presets import preset_config
from lib.publish.first_screen import first_screen, render
from lib.runs.folder import METRICS, RunFolder
from lib.runs.recall import read_recall, write_recall
from lib.show.curve import End, loss_svg
from lib.show.wording import duration

TEXT = "the first 512 tokens of play.txt"
FACTS = {"started": "2026-11-24T23:00:00Z", "corpus": {"sha256": "0" * 64, "tokens": 512, "loss_floor": 0.01},
         "machine": {"device": "a processor", "precision": "fp32"}}
EVIL = "<script>alert(1)</script>&\"'"


def made(path, state: str, corpus_loss: float | None = None, shifted_loss: float | None = None, step: int = 8,
         restarts: tuple[int, ...] = (), parameters: dict | None = None, **facts) -> RunFolder:
    """A run's folder as it is in a state, of a target of 0.1 on 512 tokens."""
    run = RunFolder(path)
    config = preset_config("tiny", **{"target_loss": 0.099999, "input_file": "data/play.txt"} | (parameters or {}))
    run.write_config(config, FACTS | facts)
    for n in range(1, step + 1):
        run.append_metrics(dict.fromkeys(METRICS, 1.0) | {"step": n, "tokens": 128 * n, "loss": 10 / n,
                                                          "mean_loss": 11 / n, "corpus_loss": None})
    run.append_samples(step, "First:\n", ["First:\nWhat, ho!"])
    run.write_summary({
        "state": state, "verdict": f"the verdict: {state}", "target_loss": config.target_loss, "step": step,
        "corpus_loss": corpus_loss, "shifted_loss": shifted_loss, "cut_losses": {"0": 0.05, "16": corpus_loss},
        "mean_loss": 11 / step, "epochs": step / 4, "elapsed_sec": 165.1, "step_sec": 61.4,
        "restarts": list(restarts), "parameters": 124_439_808})
    return run


def recalled(run: RunFolder, anywhere: float, at_a_cut: float | None = None, step: int = 8, passages: int = 200):
    trial = {"prefix": 32, "continuation": 50, "passages": passages, "tokens": 9.0}
    trials = {"anywhere": trial | {"exact": anywhere}, "anywhere, untrained": trial | {"exact": 0.0}}
    if at_a_cut is not None:
        trials["at a cut"] = trial | {"exact": at_a_cut}
    write_recall(run, step, trials, [
        {"begins": 64, "read": "what we", "right": " intend to do", "wrong": "", "right_tokens": 50, "tokens": 50},
        {"begins": 71, "read": "which", "right": " now we'll", "wrong": "\n in what", "right_tokens": 6, "tokens": 50}])


FIXED = {"order": "fixed"}


@pytest.mark.parametrize(("state", "losses", "parameters", "sentence", "kicker"), [
    ("reached", (0.082, 0.08), {}, "learned {}, from any place", "✓ Target reached"),
    ("reached", (0.077, 3.59), FIXED, "learned {}, but only where it was cut", "✓ Target reached"),
    ("reached", (0.077, None), FIXED, "learned {}; from how many places was not measured", "✓ Target reached"),
    ("reached", (3.9, 3.8), {"target_loss": 4.0}, "came to a loss of 3.90 on {}: below its target, but far from "
     "knowing it", "✓ Target reached"),
    ("limit", (0.31, 0.3), {}, "did not learn {} within its limits: its loss is 0.310, its target was 0.100",
     "Limit met, target not reached"),
    ("limit", (None, None), {}, "read less than all of {} before its limit", "Limit met, target not reached"),
    ("limit", (5.43, 5.4), {"target_loss": 0.0}, "came to a loss of 5.43 on {}; it had no target",
     "Trained to its limit"),
    ("stopped", (None, None), {}, "was stopped while it learned {}", "Stopped by the user"),
    ("failed", (None, None), {}, "failed while it learned {}", "Failed"),
    ("died", (None, None), {}, "learned {} until its kernel died", "The kernel died"),
    ("running", (None, None), {}, "learned {} until it was killed", "Killed"),  # nobody trains there
])
def test_each_state_has_its_sentence(tmp_path, state, losses, parameters, sentence, kicker):
    run = made(tmp_path / "run", state, *losses, parameters=parameters)
    screen = first_screen(run)
    assert screen["title"] == "GPT-2 (124M) " + sentence.format(TEXT)
    assert re.fullmatch(rf"{kicker} · \d\d? [A-Z][a-z]+ 20\d\d", screen["kicker"])
    assert screen["verdict"] == ("" if state == "reached" else run.read_summary()["verdict"])
    html = render(screen)
    assert html.count("<h1>") == 1 and html.count("<svg class=\"curve\"") == 1 and "What, ho!" in html


def test_a_run_without_a_step_says_so(tmp_path):
    run = RunFolder(tmp_path)
    assert first_screen(run)["title"] == "GPT-2 did not begin to learn input.txt"
    run.record_end("stopped")
    screen = first_screen(run)
    assert screen["title"] == "GPT-2 was stopped before it began to learn input.txt" and not screen["numbers"]
    assert "Stopped by the user before its first step" in render(screen)


def test_a_resumed_run_tells_how_often(tmp_path):
    once, twice = made(tmp_path / "a", "reached", 0.08, 0.08, restarts=(4,)), \
        made(tmp_path / "b", "limit", 0.3, 0.3, restarts=(2, 4))
    assert first_screen(once)["scale"].endswith("in fp32; resumed once.")
    assert first_screen(twice)["scale"].endswith("in fp32; resumed 2 times.")
    assert [first_screen(run)["curve"].count('class="restart"') for run in (once, twice)] == [1, 2]


def test_the_line_of_scale_and_the_numbers_have_their_meaning(tmp_path):
    screen = first_screen(made(tmp_path / "run", "reached", 0.077, 3.59, parameters=FIXED))
    assert screen["scale"] == "124 million weights, random at first; 512 tokens of text, read 2.0 times in 2 min " \
                              "45 s on a processor, in fp32."
    assert screen["numbers"][0] == ("0.0770 · 3.59", "loss where training cut the text (target 0.100): on average 93 % "
                                    "sure of the next token · in windows moved by half: as unsure as between 36 tokens")
    assert screen["numbers"][2][0] == "2 min 45 s" and "8 steps in 1 min 1 s" in screen["numbers"][2][1]
    anywhere = first_screen(made(tmp_path / "b", "reached", 0.082, 0.08))
    assert "They lie lower" in anywhere["caption"] and "lie lower" not in screen["caption"]
    assert anywhere["numbers"][0] == ("0.0820", "the largest loss of 2 ways to cut the text (target 0.100): on average "
                                      "92 % sure of the next token; 0.0800 in windows moved by half")


def test_what_it_can_recite_is_a_number_where_that_was_kept_and_words_where_not(tmp_path):
    run = made(tmp_path / "run", "reached", 0.077, 3.59, parameters=FIXED)
    number, words = first_screen(run)["numbers"][1]
    assert (number, words) == ("", "What it can recite is in none of its files")
    recalled(run, anywhere=0.004, at_a_cut=0.75)
    screen = first_screen(run)
    assert screen["numbers"][1] == ("75 % · < 1 %", "passages recited, 50 tokens without an error after 32 were read: "
                                    "begun where training cut the text · begun anywhere")
    assert [entry["place"] for entry in screen["asked"]] == ["at a cut", "7 tokens later"]
    html = render(screen)
    assert "from its first error on. Begun at a cut it is one of the 75 % of passages that come back whole.</p>" in html
    assert "Begun at a cut: all 50 tokens right" in html and "later: the first 6 of 50 tokens right" in html
    assert '<span class="right"> now we&#39;ll</span><span class="wrong">↵\n in what</span>' in html
    assert html.count('class="wrong">') == 2 and "What, ho!" not in html  # one of them explains the colour
    recalled(run, anywhere=1.0, step=4)  # of other weights than the last
    assert first_screen(run)["numbers"][1][1].endswith("with the weights of step 4: begun anywhere")
    recalled(run, anywhere=float("nan"), passages=0)
    assert first_screen(run)["numbers"][1] == ("", "What it can recite was not measured: the text is too short for "
                                               "such passages")
    recalled(run, anywhere=0.5)
    assert first_screen(run)["numbers"][1][0] == "50 %"
    run.recall_file.write_text(run.recall_file.read_text().replace("0.5", "0.9"))  # no longer as it was written
    assert first_screen(run)["numbers"][1][0] == ""


def test_no_text_of_a_run_becomes_part_of_the_page(tmp_path):
    run = made(tmp_path / "run", "stopped", parameters={"input_file": f"data/{EVIL}".replace("/script", ""),
                                                         "note": EVIL, "prompt": EVIL},
               machine={"device": EVIL, "precision": EVIL})
    run.append_samples(8, EVIL, [EVIL + EVIL])
    run.write_summary(run.read_summary() | {"verdict": EVIL})
    pages = [render(first_screen(run))]
    recalled(run, 0.5)
    write_recall(run, 8, read_recall(run)["trials"],
                 [dict(begins=n, read=EVIL, right=EVIL, wrong=EVIL, right_tokens=1, tokens=2) for n in (1, 8)])
    pages.append(render(first_screen(run)))
    for page in pages:
        assert "<script" not in page and page.count("&lt;script&gt;") >= 6


def test_both_last_losses_are_points_and_labels_do_not_cover_each_other(tmp_path):
    metrics = made(tmp_path / "run", "reached", 0.08, 0.081).read_metrics()
    ends = [End(0.09, "mean", "", "dark"), End(0.1, "target", "", "target"), End(0.08, "largest", EVIL, "dot"),
            End(0.081, "moved", "", "ring")]
    svg = loss_svg(metrics, 512, 0.1, ends, [], "told")
    assert svg.count("<circle") == 2 and "<script" not in svg
    heights = sorted(float(y) for y in re.findall(r'dx="9" y="([\d.]+)"', svg))
    assert len(heights) == 4 and all(b - a >= 16.9 for a, b in itertools.pairwise(heights))
    assert re.findall(r">epoch 1<|>2<", svg) == [">epoch 1<", ">2<"]
    assert "of the first epoch" in loss_svg(metrics[:3], 512, 0, ends[:1], [], "told")


@pytest.mark.parametrize("rows", [1, 2, 5000])
def test_a_curve_of_any_length_ends_where_the_run_did(tmp_path, rows):
    metrics = made(tmp_path / "run", "limit", 0.3, 0.3, step=1).read_metrics()
    table = metrics.loc[[0] * rows].assign(tokens=range(128, 128 * (rows + 1), 128), mean_loss=0.5, step=range(rows))
    points = re.search(r'class="dark" points="([^"]*)"', loss_svg(table, 512, 0.1, [], [rows], "told"))[1].split()
    assert points[-1].startswith("1000.0,") and len(points) <= 1200
    alone = loss_svg(table, 512, 0.1, [End(0.5, "mean", "", "dark")], [], "told").count('<circle class="dark"')
    assert alone == (1 if rows == 1 else 0)  # a line of one point cannot be seen


@pytest.mark.parametrize(("seconds", "words"), [
    (0.04, "0.0 s"), (45.2, "45 s"), (59.6, "1 min 0 s"), (165.1, "2 min 45 s"), (3599.7, "1 h 0 min"),
    (21166, "5 h 53 min"), (86399, "1 d 0 h"), (273_600, "3 d 4 h")])
def test_times_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
