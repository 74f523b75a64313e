"""Text <-> GPT-2's tokens, without a download, and on all cores where there is much of it."""
import codecs
import functools
import gzip
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from lib.config import InputError

MERGES = Path(__file__).parent / "shipped" / "vocab.bpe.gz"
NO_FIRST_BYTES = bytes(range(0x80, 0xC0))  # those with which no character begins in UTF-8
END = "<|endoftext|>"  # one token, 50256, wherever it stands: so GPT-2 read it, and so transformers does


def merges() -> str:
    """GPT-2's vocab.bpe: a line with its version, then a merge a line, its two tokens in GPT-2's alphabet."""
    return gzip.decompress(MERGES.read_bytes()).decode()


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in GPT-2's files, and the byte, in the order of these tokens' ids.

    A byte that prints stands for itself; the others, a space among them, are the characters from 256 on.
    """
    prints = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    others = [byte for byte in range(256) if byte not in prints]
    return {chr(byte): byte for byte in prints} | {chr(256 + n): byte for n, byte in enumerate(others)}


def vocabulary() -> dict[str, int]:
    """GPT-2's encoder.json: 50,257 tokens and their ids.

    The single bytes come first, then what each merge makes, at last the end of a text.
    """
    merged = [merge.replace(" ", "") for merge in merges().splitlines()[1:]]
    return {token: number for number, token in enumerate([*byte_alphabet(), *merged, END])}


@functools.cache
def encoding() -> tiktoken.Encoding:
    """GPT-2's byte-pair encoding, the one that tiktoken calls "gpt2", without the download that tiktoken makes."""
    byte, (*tokens, end) = byte_alphabet(), vocabulary()
    ranks = {bytes(byte[character] for character in token): rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={end: len(ranks)},
                             explicit_n_vocab=50257)


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


def decoded(*pieces: Sequence[int]) -> list[str]:
    """The texts of pieces of tokens that follow each other, cut anywhere: a character of tokens in two pieces stands in
    the later one, what is left of one at the beginning or end in none. Other bytes that are no character are written as
    \\xe4."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return [decoder.decode(encoding().decode_bytes(list(piece)).lstrip(b"" if place else NO_FIRST_BYTES))
            for place, piece in enumerate(pieces)]


def encode_prompt(prompt: str, seq_len: int) -> list[int]:
    """The tokens of a prompt, as a text has them that goes on; InputError where it has none, or a model trained on
    seq_len tokens could not see all."""
    at_a_break = prompt.endswith("\n")  # two of them are one token at the end of a text, two where a word follows
    tokens = encoding().encode(prompt + "A" * at_a_break, allowed_special="all")[:-1 if at_a_break else None]
    if not tokens:
        raise InputError("prompt is empty: give at least one character, a line break for instance")
    if len(tokens) > seq_len:
        raise InputError(f"the prompt has {len(tokens):,} tokens and the model sees {seq_len} (seq_len): "
                         "shorten --prompt")
    return tokens
