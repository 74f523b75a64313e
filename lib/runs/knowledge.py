"""What a model knew of the beginning of its text whenever a sample was drawn: samples/token_losses.csv, the losses of
the first window's targets, and samples/depth_losses.csv, those of its first ones after each block."""
from collections.abc import Sequence

from lib.runs.folder import RunFolder
from lib.runs.formats import append_row, read_rows


def append_knowledge(run: RunFolder, step: int, by_token: Sequence[float], by_depth: Sequence[float]) -> None:
    """Append, for a step, the losses (T,) of the first window's targets, and the mean loss of the first of them where
    the head is asked after the embeddings already and after each block, (n_layer + 1,)."""
    for file, losses, first in ((run.token_losses_file, by_token, 1), (run.depth_losses_file, by_depth, 0)):
        columns = ("step", *range(first, first + len(losses)))
        append_row(file, columns, dict(zip(columns, (step, *losses), strict=True)))


def read_token_losses(run: RunFolder):
    """A pandas DataFrame, a row for each step, its columns step and 1 to T; empty before the first."""
    return read_rows(run.token_losses_file, ("step",))


def read_depth_losses(run: RunFolder):
    """A pandas DataFrame, a row for each step, its columns step and 0, the embeddings, to n_layer; empty before the
    first, and for runs of versions that did not ask."""
    return read_rows(run.depth_losses_file, ("step",))
