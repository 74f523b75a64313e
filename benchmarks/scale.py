"""How reading a text grows with its size: tokens, the loss floor, a batch, and the memory of it all.

    python benchmarks/scale.py [MB ...]         default 1 10 100; with 1000 too it takes some minutes and 20 GB

Each size is measured in a process of its own, on the default text repeated with every repetition's words in another
order, so that no two windows are alike.
"""
import itertools
import math
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lib.presets import preset_config
from lib.text.corpus import Batches, load_corpus
from lib.text.default_text import default_text
from lib.text.floor import loss_floor
from lib.text.tokenizer import encoding


def write_text(path: Path, size: int) -> None:
    """A text of `size` bytes: the lines of the default text, shuffled anew for each repetition."""
    lines, rng, written = default_text().splitlines(), np.random.default_rng(0), 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        while written < size:
            written += file.write("\n".join(lines[i] for i in rng.permutation(len(lines)))[:size - written] + "\n")


def measure(path: Path, results) -> None:
    config = preset_config("full", input_file=str(path))
    encoding()
    begin = time.perf_counter()
    corpus = load_corpus(config)
    read = time.perf_counter() - begin
    begin = time.perf_counter()
    loss_floor(corpus.tokens, config.seq_len, config.order)
    floor = time.perf_counter() - begin
    batches, times = Batches(corpus.tokens, config), []
    for k in range(200):
        begin = time.perf_counter()
        batches.batch(k)
        times.append(time.perf_counter() - begin)
    results.put((len(corpus.tokens), read, floor, statistics.median(times),
                 resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


def main(sizes: list[int]) -> None:
    spawn, rows = multiprocessing.get_context("spawn"), []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_text(Path(folder, "text.txt"), size * 1_000_000)
            results = spawn.Queue()
            process = spawn.Process(target=measure, args=(Path(folder, "text.txt"), results))
            process.start()
            tokens, read, floor, batch, memory = results.get()
            process.join()
        rows.append((size, read, floor))
        print(f"{size:5} MB  {tokens:12,} tokens in {read:7.2f} s  floor {floor:7.2f} s  batch {batch * 1e6:5.0f} µs  "
              f"memory {memory:5.2f} GB", flush=True)
    for name, column in (("tokens", 1), ("floor", 2)):
        growth = [math.log(b[column] / a[column]) / math.log(b[0] / a[0]) for a, b in itertools.pairwise(rows)]
        print(f"growth exponents of {name}: {', '.join(f'{exponent:.2f}' for exponent in growth)}")


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1, 10, 100])
