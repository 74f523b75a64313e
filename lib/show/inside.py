"""What a look inside a model answers: the questions at the end of chapter 4, also where the answer is no."""
from collections.abc import Sequence

import numpy as np

Heads = dict[str, tuple[int, int, float]]  # layer, head and share of attention by habit, as telling_heads gives them


def formed(heads: Heads, as_it_began: Heads) -> dict[str, list[str]]:
    """Which habits of heads formed in training, which were there before, which are not there."""
    kinds: dict[str, list[str]] = {"formed in training": [], "there from the start": [], "not formed": []}
    for habit, (_, _, share) in heads.items():
        began = as_it_began[habit][2]
        if share > max(2 * began, began + 0.1):
            kinds["formed in training"].append(habit)
        else:
            kinds["there from the start" if min(share, began) > 0.3 else "not formed"].append(habit)
    return kinds


def habits(heads: Heads, as_it_began: Heads) -> str:
    """The same in words."""
    kinds = formed(heads, as_it_began)
    return "; ".join(f"{kind}: {', '.join(some) or 'none'}" for kind, some in kinds.items()).capitalize() + "."


def depth(losses: Sequence[float], right: Sequence[float]) -> str:
    """How a prediction comes about from block to block: the loss and the share of right tokens read out after the
    embeddings and after each block."""
    if losses[-1] > 0.7 * losses[0]:
        return (f"The loss is {losses[0]:.2f} before the first block and {losses[-1]:.2f} after the last: "
                + ("hardly less." if losses[-1] < losses[0] else "no less."))
    at = _half_way(losses)
    return (f"The loss falls from {losses[0]:.2f} before the first block to {losses[-1]:.2f} after the last; half of "
            f"that is done {_after(at, len(losses) - 1)}, when {right[at]:.0%} of the tokens would be right.")


def depth_over_time(steps: Sequence[int], losses: Sequence[Sequence[float]]) -> str:
    """How the work of the blocks came about in training: the losses read out after the embeddings and after each block,
    at some steps."""
    if len(steps) < 2:
        return "The blocks were asked only once."
    ways = []
    for step, some in zip(steps, losses, strict=True):
        half = "" if some[-1] >= some[0] else f", half of that {_after(_half_way(some), len(some) - 1)}"
        ways.append(f"at step {step:,} the blocks bring the loss from {some[0]:.2f} to {some[-1]:.2f}{half}")
    return "; ".join(ways).capitalize() + "."


def _half_way(losses: Sequence[float]) -> int:
    """After how many blocks half of the way from the first loss to the last, which is lower, is done."""
    return next(i for i, loss in enumerate(losses) if loss <= (losses[0] + losses[-1]) / 2)


def _after(block: int, blocks: int) -> str:
    """A depth in words."""
    return f"after block {block} of {blocks}" if block else "after the embeddings"


def used_alike(tokens: np.ndarray, words: Sequence[int], trained: list[list[int]], untrained: list[list[int]]) -> str:
    """Whether the tokens whose rows point the way of a word's are used as it is in a text (N,): how many of the tokens
    directly before and after the rarer of the two stand there with the other as well. What is frequent has many of
    them, however it is used, so tokens about as frequent as those neighbours stand beside them."""
    def around(token: int) -> set[tuple[int, int]]:
        at = np.flatnonzero(tokens[1:-1] == token) + 1
        return {(-1, t) for t in tokens[at - 1].tolist()} | {(1, t) for t in tokens[at + 1].tolist()}

    def common(near: list[list[int]]) -> float:
        pairs = [(around(word), around(other)) for word, others in zip(words, near, strict=True) for other in others]
        return float(np.mean([len(a & b) / max(1, min(len(a), len(b))) for a, b in pairs]))
    if trained == untrained:
        return "Both columns are the same: of training nothing can be seen here."
    ids, counts = np.unique(tokens, return_counts=True)
    ranked = ids[np.argsort(-counts, kind="stable")].tolist()
    place = {token: rank for rank, token in enumerate(ranked)}

    def as_frequent(token: int, not_these: set[int]) -> int:
        return min((other for other in ranked if other not in not_these), default=token,
                   key=lambda other: abs(place[other] - place[token]))

    alike = [[as_frequent(other, {word, *others}) for other in others]
             for word, others in zip(words, trained, strict=True)]
    now, before, by_chance = common(trained), common(untrained), common(alike)
    return (f"Of the tokens directly beside the rarer of two neighbours, {now:.0%} stand beside the other, too; "
            f"{by_chance:.0%} where others as frequent take the neighbours' places, {before:.0%} in the untrained "
            "model: " + ("tokens used alike point the same way." if now > 1.5 * max(before, by_chance) else
                         "that tokens used alike point the same way cannot be seen here."))
