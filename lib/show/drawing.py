"""How figures look here, and how they come into a page or a file."""
import io
from collections.abc import Sequence

from IPython.display import DisplayHandle, display
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lib.show.curve import apart
from lib.show.svg import FAINT, LINE, captioned, inline, switch

STYLE = {"font.size": 12, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.grid": True, "axes.grid.axis": "y",
         "grid.color": LINE, "axes.edgecolor": LINE, "axes.spines.top": False, "axes.spines.right": False,
         "axes.spines.left": False, "xtick.color": LINE, "xtick.labelcolor": FAINT, "ytick.color": LINE,
         "ytick.labelcolor": FAINT, "ytick.major.size": 0, "ytick.minor.size": 0, "xtick.minor.size": 0,
         "text.color": FAINT, "axes.labelcolor": FAINT, "axes.titlecolor": FAINT, "legend.frameon": False,
         "figure.facecolor": "none", "axes.facecolor": "none", "figure.dpi": 72, "svg.fonttype": "none"}
# over matplotlib's own defaults: a person's matplotlibrc may ask for what is not there, LaTeX for instance
house = style.context(STYLE, after_reset=True)
WIDTH, NARROW = 864, 358  # pixels, which are points here: the column of a report, and that of one on a phone
TOP, FOOT, LEFT, RIGHT = 26, 44, 46, 14  # pixels around what is drawn, for titles and ticks
LINE_HEIGHT, LETTER = 17, 6.8  # pixels that a word takes: its height, and about the width of a letter
LIVE = {"live": True}  # the metadata of what is renewed: a page, which stands still, has the same in another place


def show(figure: Figure | dict[str, Figure], alt: str, handle: DisplayHandle | None = None) -> DisplayHandle:
    """Show a figure in the notebook, with its caption, which is all of it for those who cannot see it; of several by
    what they are called, the one that is chosen there.

    With the handle that an earlier call returned, the new figure takes the place of the earlier one. A figure that
    cannot be drawn is told in words: what only shows ends no chapter.
    """
    try:
        page = captioned(_drawn(figure, alt), alt) if isinstance(figure, Figure) else switch(
            {name: _drawn(one, f"{alt}, by {name}") for name, one in figure.items()}, alt)
        data = {"text/html": page, "text/plain": alt}
    except Exception as error:  # of many kinds: a font, the disk, a program that is not there
        data = {"text/plain": f"{alt}\n(this figure could not be drawn: {error})"}
    if handle is None:
        return display(data, raw=True, display_id=True)
    handle.update(data, raw=True, metadata=LIVE)
    return handle


@house
def _drawn(figure: Figure, alt: str) -> str:
    """A figure for a wide page and for a phone, with as many pixels around it on both; what is square stays so."""
    (width, height), place = figure.get_size_inches() * 72, figure.subplotpars
    left, right = place.left * width, (1 - place.right) * width
    top, foot = (1 - place.top) * height, place.bottom * height
    drawn = ""
    for pixels in (width, min(width, NARROW)):
        tall = height - (width - pixels if figure.axes[0].get_aspect() == 1 else 0)
        figure.set_size_inches(pixels / 72, tall / 72)
        figure.subplots_adjust(left=left / pixels, right=1 - right / pixels, top=1 - top / tall, bottom=foot / tall)
        file = io.StringIO()
        figure.savefig(file, format="svg", dpi=72)
        drawn += inline(file.getvalue(), alt, narrow=bool(drawn))
    return drawn


@house
def png(figure: Figure) -> bytes:
    """A figure as the file of an image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def new(rows: int = 1, height: float = 300, width: float = WIDTH, left: float = LEFT, foot: float = FOOT, **subplots):
    """A figure of so many pixels, so many of them left of it and below it, and its axes, one above the other."""
    figure = Figure(figsize=(width / 72, height / 72))
    figure.subplots_adjust(left=left / width, right=1 - RIGHT / width, top=1 - TOP / height, bottom=foot / height,
                           hspace=0.4)
    return figure, figure.subplots(rows, 1, **subplots)


def log(axis: Axis) -> None:
    """A log scale whose ticks are powers of ten, or where few of them are between, 2 and 5 of each as well."""
    (axis.axes.set_yscale if axis.axis_name == "y" else axis.axes.set_xscale)("log")
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high > 150 * low else (1, 2, 5)))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right of what ends at these heights, (height, name, colour) each, none over another."""
    figure = axes.figure
    width, height = figure.get_size_inches() * 72
    letters = max(len(line) for _, name, _ in ends for line in name.splitlines())
    figure.subplots_adjust(right=1 - (12 + LETTER * letters) / width)
    tall, (low, high) = axes.get_position().height * height, axes.get_ylim()
    shares = [axes.transAxes.inverted().transform(axes.transData.transform((1, min(max(end, low), high))))[1]
              for end, *_ in ends]
    for (_, name, color), place in zip(ends, apart([tall * (1 - share) for share in shares], 0, tall), strict=True):
        axes.text(1, 1 - place / tall, f"\N{EN SPACE}{name}".replace("\n", "\n\N{EN SPACE}"), color=color, va="center",
                  transform=axes.transAxes, parse_math=False)


def mark(axes: Axes, place: float, name: str, color: str) -> None:
    """An upright line with a name at its head."""
    axes.axvline(place, color=color, linestyle="--", linewidth=1)
    axes.annotate(name, (place, 1), (5, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
                  color=color, va="top")


def name_below(figure: Figure, lines: Sequence[Axes]) -> None:
    """The names of lines below the figure, which has been left room for them."""
    figure.legend(handles=lines, loc="lower left", bbox_to_anchor=(0, 0), fontsize=12, borderaxespad=0)
