"""A figure as HTML that is at home in its page: an SVG in the page's own font and colours, one for a wide page and one
for a phone, so that its letters keep their size on both.

The page names its colours in CSS variables; where it does not, as in JupyterLab, the figure's own colours stand.
"""
import html
import re

# Okabe & Ito's colours ("Color Universal Design", 2008), and those of words and rules
BLUE, ORANGE, GREEN, SKY, GREY = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#767676"
INK, FAINT, LINE = "#1b1f24", "#57606a", "#d8dce1"
VARIABLES = {BLUE: "blue", ORANGE: "orange", GREEN: "green", SKY: "sky", GREY: "grey", INK: "ink", FAINT: "faint",
             LINE: "line"}  # what a page calls them
OWN = {"ink": "currentColor", "faint": "currentColor", "line": "#8884"}  # fit for light and for dark where it has none
HIDDEN = "display: none"  # a page with a style for them shows what is for phones


def inline(svg: str, alt: str, narrow: bool) -> str:
    """An SVG file of matplotlib, with its texts as text, as an element of a page that is told as `alt`."""
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r" *<(metadata|style).*?</\1>\n?| id=\"[a-zA-Z0-9.-]+_\d+\"", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*(; )?| transform=\"rotate\(-?0 [^\"]*\"", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = re.sub(r' [dxy]="[^"]*"', lambda places: re.sub(r"(\.\d\d)\d+", r"\1", places[0]), svg)  # of pixels
    svg = re.sub(r"(?<=: )#[0-9a-f]{6}", lambda color: _variable(color[0]), svg)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    look = HIDDEN if narrow else "max-width: 100%; height: auto"
    return (f'<svg class="{"narrow" if narrow else "wide"}" role="img" aria-label="{html.escape(alt)}" '
            f'width="{float(width):.0f}" viewBox="0 0 {width} {height}" style="{look}" stroke-linejoin="round">'
            + svg[svg.index(">") + 1:])


def _variable(color: str) -> str:
    name = VARIABLES.get(color)
    return f"var(--{name}, {OWN.get(name, color)})" if name else color


def captioned(drawn: str, caption: str) -> str:
    """A figure with its caption."""
    return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>"


def switch(drawn: dict[str, str], caption: str) -> str:
    """Figures by what they are called, of which one is shown, the first at first; whoever reads the page chooses. It
    takes no script, and a form, so that several of them on one page know nothing of each other."""
    labels = "".join(f'<label><input type="radio" name="shown"{"" if i else " checked"}> {html.escape(name)}</label>\n'
                     for i, name in enumerate(drawn))
    unchosen = ", ".join(f".switch:has(label:nth-of-type({i}) input:not(:checked)) div:nth-of-type({i})"
                         for i in range(1, len(drawn) + 1))
    figures = "".join(f"<div>{one}</div>" for one in drawn.values())
    return captioned(f'<form class="switch"><style>{unchosen} {{ display: none }}</style>{labels}{figures}</form>',
                     caption)
