"""The text that is learned where none is named: nine plays of Shakespeare."""
import gzip
from pathlib import Path

from lib.config import ROOT, relative_to_root
from lib.files import whole_file

DEFAULT_FILE = ROOT / "data" / "input.txt"
SHIPPED = Path(__file__).parent / "shipped" / "shakespeare.txt.gz"


def default_text() -> str:
    """The plays of tiny Shakespeare (Karpathy, char-rnn, 2015), written like it: SPEAKER:, lines, blank line."""
    return gzip.decompress(SHIPPED.read_bytes()).decode()


def write_default_text(path: Path) -> None:
    """Write it into a file, and say so."""
    data = default_text().encode()
    with whole_file(path) as file:
        file.write(data)
    print(f"made {relative_to_root(path)}: nine plays of Shakespeare, {len(data):,} bytes (public domain). "
          "For a text of your own: --input_file FILE")
