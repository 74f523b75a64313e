"""What the numbers of a run answer: each question that a chapter asks, in a sentence, also where the answer is no."""
import html
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.display import display

from lib.show.wording import written
from lib.text.tokenizer import token_repr
from lib.training.progress import SURE

if TYPE_CHECKING:  # torch takes two seconds to import, for which the chapter on the text need not wait
    from lib.model.memorisation import Recall


def say(*sentences: str) -> None:
    """Show sentences in a notebook as its text, a paragraph each."""
    paragraphs = "".join(f'<p class="answer">{html.escape(sentence)}</p>' for sentence in sentences)
    display({"text/html": paragraphs, "text/plain": "\n".join(sentences)}, raw=True)


def fall_of_floor(nats: Sequence[float], lengths: Sequence[int]) -> str:
    """Whether the floor of the loss falls as 1/T, from what windows of some lengths T cost at least."""
    falls = "falls about as 1/T" if 0.8 * nats[0] <= nats[-1] <= 1.25 * nats[0] else "does not fall as 1/T"
    return (f"A window of {lengths[0]} tokens costs {nats[0]:.2f} nats, one of {lengths[-1]} costs {nats[-1]:.2f}: the "
            f"floor {falls}.")


def worth(corpus_loss: float | None, shifted_loss: float | None, pairs: float) -> str:
    """How sure a model is of its text, beside a table of the pairs of tokens counted in it; losses in nats."""
    if corpus_loss is None:
        return "How well it knows its text was not measured."
    said = (f"A loss of {corpus_loss:.3f} nats is that of a choice among {math.exp(corpus_loss):.2f} tokens alike; a "
            f"table of pairs counted in this text chooses among {math.exp(pairs):.2f}. So "
            + ("more was learned than what follows what." if corpus_loss < pairs else "such a table does better."))
    if shifted_loss is None:
        return said
    if shifted_loss >= pairs:
        moved = "no better than that table: what it knows, it knows at its cuts" if corpus_loss < pairs else "no better"
    else:
        moved = ("as sure" if shifted_loss < 1.1 * corpus_loss else "nearly as sure" if shifted_loss < 2 * corpus_loss
                 else "less sure, but better than that table")
    return f"{said} Where windows are moved by half it chooses among {math.exp(shifted_loss):.2f}: {moved}."


def beside_steps(metrics: pd.DataFrame, corpus_loss: float | None) -> str:
    """Whether steps had a lower loss than the figure that decides, and why; `metrics` as in train_metrics.csv."""
    if corpus_loss is None:
        return "No loss over all tokens was measured, so the loss of a step has nothing to stand beside."
    below = int((metrics["loss"] < corpus_loss).sum())
    if not below:
        return (f"No logged step was as low as the {corpus_loss:.4f} of all tokens. A step reads its windows before it "
                "trains on them, about an epoch after it last did; the pass over all tokens follows at once.")
    mean = metrics["mean_loss"].iloc[-1]
    higher = "" if mean <= corpus_loss else (
        f" Their mean over the last epoch, {mean:.4f}, is higher: it is of steps by earlier weights, which knew less; "
        "the pass over all tokens is by the last ones.")
    easy = ", by windows that happened to be easy" if mean > corpus_loss else ""
    return (f"{below:,} of {len(metrics):,} logged steps {'were' if below > 1 else 'was'} lower than the "
            f"{corpus_loss:.4f} of all tokens, down to {metrics['loss'].min():.4f}{easy}. So no step decides.{higher}")


def steadiness(metrics: pd.DataFrame, clip_grad: float) -> str:
    """Whether gradient norm and throughput settled, and how many logged steps were clipped."""
    norm, fifth = metrics["grad_norm"], max(1, len(metrics) // 5)
    early, late, highest = norm[:fifth].median(), norm[-fifth:].median(), norm[-fifth:].max()
    way = "fell" if late < early / 1.5 else "rose" if late > 1.5 * early else "stayed about level"
    jumps = f"jumps to {highest:.1f} at the end" if highest > 3 * late else "does not jump at the end"
    clipped = f"{(norm > clip_grad).mean():.0%} of the logged steps were clipped at {clip_grad:g}" if clip_grad else \
        "nothing is clipped"
    speed = metrics["tokens_per_sec"].quantile([0.1, 0.9]).tolist()
    level = "level" if speed[1] < 1.5 * speed[0] else "not level"
    return (f"The gradient norm {way}, from {early:.1f} to {late:.1f} (medians of the first and the last fifth), and "
            f"{jumps}; {clipped}. The throughput was {level}, {speed[0]:,.0f} to {speed[1]:,.0f} tokens per second in "
            "eight steps of ten.")


def levelness(usage: pd.DataFrame, threads: int) -> str:
    """Whether memory stayed level in the second half, and how many cores were at work, beside as many threads; `usage`
    as in usage.csv."""
    if len(usage) < 4:
        return "It was looked at too seldom to tell."
    half = usage["memory_gb"].to_numpy()[len(usage) // 2:]
    before, after = (np.median(quarter) for quarter in np.array_split(half, 2))
    at_once = np.diff(half).max() > 0.5 * np.ptp(half)
    way = ("stayed level" if abs(after / before - 1) < 0.05 else "fell" if after < before else
           "rose, at once" if at_once else "rose bit by bit, as if something were kept")
    wanted = 1 if usage["gpu_memory_gb"].notna().any() else threads
    busy = usage["processor_percent"].median() / 100
    return (f"In the second half memory {way}: {before:.2f} GB and then {after:.2f} GB. {busy:.1f} cores were at work "
            f"in the median, {'as many as' if busy > 0.8 * wanted else 'fewer than'} the {wanted} wanted.")


def first_and_last(tokens: np.ndarray, known: pd.DataFrame) -> str:
    """Which of the first tokens of a text (N,) a model was sure of at the first look, and of which least at the last;
    `known` has a row for each look: the step, and the losses of the tokens from the second on."""
    targets = tokens[1:known.shape[1]].tolist()
    first, last = (known.iloc[row, 1:].to_numpy() for row in (0, -1))
    early = Counter(token for token, loss in zip(targets, first, strict=True) if loss < SURE)
    which = f", most often {' '.join(token_repr(token) for token, _ in early.most_common(3))}" if early else ""
    hardest = ", ".join(f"{token_repr(targets[i])} after {token_repr(int(tokens[i]))} ({last[i]:.2f})"
                        for i in np.argsort(-last)[:3] if last[i] >= SURE or last.max() < SURE)
    later = f"; of {(last < SURE).sum()} at step {known.iloc[-1, 0]:,.0f}" if len(known) > 1 else ""
    return (f"Of these {len(targets)} tokens it was sure (below {SURE} nats) of {early.total()} at step "
            f"{known.iloc[0, 0]:,.0f}{which}{later}. "
            f"{'Left at the end are above all' if last.max() >= SURE else 'At the end it is least sure of'} {hardest}.")


def recognition(losses: pd.DataFrame, floors: Sequence[float], crossed: bool) -> str:
    """How soon in a window a model is sure, beside one who knows the text; `losses` as in position_losses.csv, `floors`
    of the first positions, and whether moved windows are `crossed` by a cut."""
    sure = [[place for place, loss in enumerate(column, 1) if loss < SURE]
            for column in (losses["loss"], losses["moved"], floors)]
    at_cuts, moved, knowing = (f"at position {places[0]}" if places else "nowhere" for places in sure)
    half = len(losses) // 2
    before, behind = losses["moved"][:half].mean(), losses["moved"][half:].mean()
    as_few, ratio = sure[0] and sure[2] and sure[0][0] <= sure[2][0], losses["moved"].mean() / losses["loss"].mean()
    need = "as few tokens as" if as_few else "more tokens than"
    how = "as" if ratio < 1.1 else "nearly as" if ratio < 2 else "less"
    cut = ", behind the cut that they cross" if crossed else ""
    return (f"The mean loss is first below {SURE} nats {at_cuts}, with windows moved by half {moved}, and that of one "
            f"who knows the text {knowing}. Moved windows cost {before:.2f} nats in their first half and {behind:.2f} "
            f"in their second{cut}. So it needs {need} one who knows, and is {how} sure where windows are moved.")


def recitation(trials: "dict[str, list[Recall]]") -> str:
    """Whether passages came back, from where, and whether reading more of them helped; recalls by where they began."""
    place = "at a cut" if "at a cut" in trials else "anywhere"
    best, (control, *_) = max(trials[place], key=lambda came: came.tokens), trials["anywhere, untrained"]
    if not best.passages or not control.passages:
        return "The text is too short for such passages."
    said = [f"Of passages begun {place} {best.exact:.0%} came back whole after {best.prefix} tokens read, and "
            f"{best.tokens:.1f} of {best.continuation} tokens on average; "
            f"{control.tokens:.1f} of the untrained model's."]
    if best.tokens < 1:
        said.append("So it recites hardly anything.")
    elif place == "at a cut":
        away = next(came for came in trials["anywhere"] if came.prefix == best.prefix)
        said.append(f"Begun anywhere {away.exact:.0%} did, and {away.tokens:.1f} tokens: "
                    + ("it recites from its cuts above all." if away.tokens < 0.5 * best.tokens else
                       "it recites better from its cuts." if away.tokens < 0.8 * best.tokens else
                       "it recites from there as well."))
    elif best.exact < 0.5:
        said.append("So it seldom recites.")
    if len(trials[place]) == 2:
        short, long = trials[place]
        gained, error = long.exact - short.exact, 2 * math.hypot(long.exact_error, short.exact_error)
        many = "more" if gained > error else "fewer" if gained < -error else "about as many"
        than = "than" if abs(gained) > error else "as"
        said.append(f"After {long.prefix} tokens read, {many} came back whole {than} after {short.prefix}.")
    return " ".join(said)


def quickest(runs: dict[str, dict[str, Any]]) -> str:
    """Which run, of some by name with their summaries, reached its target with the fewest tokens and in the least time.
    """
    reached = {name: summary for name, summary in runs.items() if summary["state"] == "reached"}
    if not reached:
        return "None of them reached its target."
    fewest, least = (min(reached, key=lambda name: reached[name][figure]) for figure in ("tokens", "elapsed_sec"))
    return (f"Of the {len(reached)} that reached their targets, {fewest} took the fewest tokens, "
            f"{written('tokens', reached[fewest]['tokens'])}, and {least} the least time, "
            f"{written('elapsed_sec', reached[least]['elapsed_sec'])}.")


def same_error(asked: list[dict[str, Any]], prefix: int) -> str:
    """Whether a passage that was asked from two places goes wrong at the same token of the text; `asked` as asked_twice
    gives it, after reading `prefix` tokens."""
    if not asked:
        return "The text is too short to ask so."
    errors = {one["begins"] + prefix + one["right_tokens"] for one in asked if one["right_tokens"] < one["tokens"]}
    if not errors:
        return "Both are right to their ends."
    wrong = sum(one["right_tokens"] < one["tokens"] for one in asked)
    if wrong == 2 and len(errors) == 1:
        return f"Both go wrong at token {errors.pop():,} of the text: that place is hard from both."
    places = " and ".join(f"{place:,}" for place in sorted(errors))
    return f"They do not go wrong at the same token of the text, but at {places}." if wrong == 2 else \
        f"One of them goes wrong, at token {places} of the text."


def behind_cuts(offsets: Sequence[int], tokens: Sequence[float], most: int) -> str:
    """How recall, in tokens of `most`, falls with the distance at which passages begin behind a cut, 0 first."""
    at_cut, behind = tokens[0], tokens[1:]
    if math.isnan(at_cut):
        return "The text is too short for such passages."
    kept = np.mean(behind) / max(at_cut, 0.1)
    return (f"At a cut {at_cut:.1f} of {most} tokens came back on average, {offsets[1]} to {offsets[-1]} after it "
            f"{np.mean(behind):.1f}: " + ("it recites hardly anything." if max(tokens) < 1 else
                                          "what it recites, it recites from its cuts." if kept < 0.5 else
                                          "part of it is recited from the cuts alone." if kept < 0.8 else
                                          "it recites from between its cuts, too."))
