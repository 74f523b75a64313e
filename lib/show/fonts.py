"""The characters a figure can show: those of an installed font; of any other its code point."""
import contextlib
import functools
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

OWN = "DejaVu Sans"  # comes with matplotlib


def legible(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts as a figure can show them, and the fonts that takes: matplotlib's own, and of those that are installed the
    first that have what it lacks. A character that no font has becomes its code point, U+4E2D for instance."""
    missing = {character for text in texts for character in text
               if character.isprintable() and ord(character) not in _characters(findfont(OWN))}
    fonts = [OWN]
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.fname)) if missing else ():
        found = {character for character in missing if ord(character) in _characters(font.fname)}
        if found and not font.name.startswith("Last Resort"):  # whose every character is a box
            fonts.append(font.name)
            missing -= found
    return [text.translate({ord(character): f"U+{ord(character):04X}" for character in missing})
            for text in texts], fonts


def use(fonts: list[str], figure: Figure) -> Figure:
    """Let all texts of a figure take these fonts, the first that has a character; returns it."""
    for text in figure.findobj(Text):
        text.set_fontfamily(fonts)
    return figure


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font file has; none where it cannot be read."""
    with contextlib.suppress(OSError, RuntimeError):
        return frozenset(FT2Font(path).get_charmap())
    return frozenset()
