"""A question's answer says what the numbers say, also when it is no."""
import math

import numpy as np
import pandas as pd
import pytest

from lib.model.memorisation import Recall
from lib.show import findings


def test_the_floor_falls_as_1_over_t_or_does_not():
    assert findings.fall_of_floor([5.0, 5.5], [8, 512]).endswith("512 costs 5.50: the floor falls about as 1/T.")
    assert findings.fall_of_floor([5.0, 1.5], [8, 512]).endswith("does not fall as 1/T.")


@pytest.mark.parametrize("loss, moved, words", [
    (None, None, ["not measured"]),
    (0.1, None, ["a choice among 1.11 tokens", "among 6.05", "more was learned than what follows what"]),
    (0.1, 0.09, ["more was learned", "moved by half it chooses among 1.09: as sure"]),
    (0.1, 0.12, ["more was learned", "moved by half it chooses among 1.13: nearly as sure"]),
    (0.1, 1.0, ["more was learned", "less sure, but better than that table"]),
    (0.1, 3.6, ["more was learned", "36.60: no better than that table: what it knows, it knows at its cuts"]),
    (2.5, 2.6, ["such a table does better", "13.46: no better."]),
])
def test_a_loss_is_worth_what_a_table_of_pairs_is_not(loss, moved, words):
    told = findings.worth(loss, moved, pairs=1.8)
    assert not [some for some in words if some not in told], told


def test_steps_stand_beside_the_figure_that_decides():
    metrics = pd.DataFrame({"loss": [3.0, 0.2, 0.15, 0.05], "mean_loss": [3.0, 1.6, 1.1, 0.09]})
    assert "No logged step was as low as the 0.0400" in findings.beside_steps(metrics, 0.04)
    assert "1 of 4 logged steps was lower than the 0.1000 of all tokens, down to 0.0500. So" in \
        findings.beside_steps(metrics, 0.1)  # a run whose steps were all lower before was no easy window
    assert "down to 0.0500, by windows that happened to be easy. So" in findings.beside_steps(metrics, 0.08)
    assert findings.beside_steps(metrics, 0.1).endswith("So no step decides.")
    assert "mean over the last epoch, 0.0900, is higher" in findings.beside_steps(metrics, 0.08)
    assert "was measured" in findings.beside_steps(metrics, None)


def test_a_gradient_norm_settles_or_jumps_and_a_throughput_is_level_or_not():
    steps = pd.DataFrame({"grad_norm": np.linspace(9, 0.5, 50), "tokens_per_sec": [100.0] * 50})
    told = findings.steadiness(steps, clip_grad=1.0)
    assert "fell, from 8.2 to 1.3" in told and "does not jump" in told and "was level, 100 to 100" in told
    assert "94% of the logged steps were clipped at 1" in told
    steps.loc[48, "grad_norm"], steps.loc[::3, "tokens_per_sec"] = 70, 40
    told = findings.steadiness(steps, clip_grad=0.0)
    assert "jumps to 70.0 at the end" in told and "nothing is clipped" in told and "not level, 40 to 100" in told


def test_memory_stays_level_or_rises():
    usage = pd.DataFrame({"memory_gb": [1, 2, 3, 3, 3, 3, 3, 3.1], "processor_percent": 190.0})
    usage["gpu_memory_gb"] = np.nan
    told = findings.levelness(usage, threads=2)
    assert "memory stayed level: 3.00 GB and then 3.05 GB. 1.9 cores were at work in the median, as many as" in told
    assert findings.levelness(usage, threads=8).endswith("fewer than the 8 wanted.")
    assert findings.levelness(usage.assign(gpu_memory_gb=1.0), threads=8).endswith("as many as the 1 wanted.")
    kept, saved = usage.assign(memory_gb=range(2, 10)), usage.assign(memory_gb=[1, 2, 3, 3, 3, 3, 4, 4])
    assert "rose bit by bit, as if something were kept: 6.50 GB and then 8.50 GB" in findings.levelness(kept, 2)
    assert "memory rose, at once: 3.00 GB and then 4.00 GB" in findings.levelness(saved, 2)
    assert findings.levelness(usage[:3], threads=2) == "It was looked at too seldom to tell."


def test_the_tokens_known_first_and_those_left_are_named():
    tokens = np.array([5962, 22307, 25, 198], np.uint16)  # First, Citizen, colon, line break
    known = pd.DataFrame([[10, 4.0, 0.1, 3.0], [90, 2.5, 0.01, 0.02]], columns=["step", "1", "2", "3"])
    told = findings.first_and_last(tokens, known)
    assert "Of these 3 tokens it was sure (below 0.5 nats) of 1 at step 10, most often ':'; of 2 at step 90" in told
    assert told.endswith("Left at the end are above all ' Citizen' after 'First' (2.50).")
    known.iloc[-1, 1:] = 0.2
    assert findings.first_and_last(tokens, known).count("(0.20)") == 3
    assert "At the end it is least sure of" in findings.first_and_last(tokens, known)


def test_a_model_recognises_a_place_later_than_one_who_knows_the_text():
    losses = pd.DataFrame({"loss": [4, 2, 0.3, 0.1], "moved": [5.0, 3, 2, 4]})
    told = findings.recognition(losses, floors=[2.0, 0.4], crossed=True)
    assert "at position 3, with windows moved by half nowhere, and that of one who knows the text at position 2" in told
    assert "4.00 nats in their first half and 3.00 in their second, behind the cut that they cross. So" in told
    assert told.endswith("needs more tokens than one who knows, and is less sure where windows are moved.")
    told = findings.recognition(losses.assign(moved=losses["loss"]), [2.0, 1.0, 0.4], crossed=False)
    assert told.endswith("needs as few tokens as one who knows, and is as sure where windows are moved.")
    assert "cross" not in told


def came(tokens: float, exact: float = 0.0, prefix: int = 32, passages: int = 20) -> Recall:
    return Recall(prefix, 50, passages, exact, tokens)


def test_what_comes_back_depends_on_where_a_passage_begins():
    control = [came(0.1)]
    told = findings.recitation({"anywhere": [came(50, 1.0)], "anywhere, untrained": control})
    assert told == ("Of passages begun anywhere 100% came back whole after 32 tokens read, and 50.0 of 50 tokens on "
                    "average; 0.1 of the untrained model's.")
    for place in ("anywhere", "at a cut"):
        told = findings.recitation({"anywhere": [came(0.2)], "anywhere, untrained": control, place: [came(0.4)]})
        assert told.endswith("So it recites hardly anything.")
    told = findings.recitation({"anywhere": [came(4)], "anywhere, untrained": control})
    assert told.endswith("So it seldom recites.")
    told = findings.recitation({"anywhere": [came(4)], "anywhere, untrained": control,
                                "at a cut": [came(45, 0.75, passages=200), came(41, 0.6, prefix=64, passages=200)]})
    assert "begun at a cut 75% came back" in told and "recites from its cuts above all" in told
    assert told.endswith("After 64 tokens read, fewer came back whole than after 32.")
    about = {"anywhere": [came(45, 0.92), came(41, 0.94, prefix=64)], "anywhere, untrained": control}
    assert findings.recitation(about).endswith("After 64 tokens read, about as many came back whole as after 32.")
    none = came(math.nan, math.nan, passages=0)
    assert "too short" in findings.recitation({"anywhere": [none], "anywhere, untrained": [none]})


def test_the_quickest_of_several_runs_is_named():
    runs = {"a": {"state": "reached", "tokens": 2000, "elapsed_sec": 5}, "b": {"state": "limit", "tokens": 1},
            "c": {"state": "reached", "tokens": 9000, "elapsed_sec": 3}}
    assert findings.quickest(runs) == (
        "Of the 2 that reached their targets, a took the fewest tokens, 2,000, and c the least time, 3.0 s.")
    assert findings.quickest({"b": runs["b"]}) == "None of them reached its target."


def test_a_passage_asked_from_two_places_goes_wrong_at_one_or_not():
    def asked(*right):
        return [{"begins": a, "right_tokens": count, "tokens": 50} for a, count in zip((0, 7), right, strict=True)]
    assert findings.same_error(asked(28, 21), 32).startswith("Both go wrong at token 60 of the text")
    assert findings.same_error(asked(28, 22), 32).endswith("but at 60 and 61.")
    assert findings.same_error(asked(50, 45), 32) == "One of them goes wrong, at token 84 of the text."
    assert findings.same_error(asked(50, 50), 32) == "Both are right to their ends."
    assert "too short" in findings.same_error([], 32)


def test_recall_falls_behind_a_cut_or_does_not():
    told = findings.behind_cuts([0, 1, 2, 4], [50, 30, 20, 3], 50)
    assert told == ("At a cut 50.0 of 50 tokens came back on average, 1 to 4 after it 17.7: what it recites, it "
                    "recites from its cuts.")
    assert findings.behind_cuts([0, 1, 2], [40, 20, 30], 50).endswith("part of it is recited from the cuts alone.")
    assert findings.behind_cuts([0, 1, 2], [50, 49, 48], 50).endswith("it recites from between its cuts, too.")
    assert findings.behind_cuts([0, 1], [0.4, 0.4], 50).endswith("it recites hardly anything.")
    assert "too short" in findings.behind_cuts([0, 1], [math.nan, math.nan], 50)


def test_an_answer_is_a_paragraph_of_its_own(capsys):
    findings.say("a < b", "c")
    assert capsys.readouterr().out == repr({"text/html": '<p class="answer">a &lt; b</p><p class="answer">c</p>',
                                            "text/plain": "a < b\nc"}) + "\n"
