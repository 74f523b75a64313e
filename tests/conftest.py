"""What several tests need: a small configuration, its text, and a folder of its own for every run."""
import functools
import os
import shutil
import signal
import warnings
from pathlib import Path

import nbformat
import pytest
import torch

from lib.config import ROOT
from lib.presets import preset_config
from lib.text.corpus import Corpus, load_corpus
from lib.training.machine import Machine, _has_bf16

SHAKESPEARE = ROOT.parent / "shared" / "data" / "input.txt"  # tiny Shakespeare, where a machine has it


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal():
    """Whoever started the tests may have had them ignore some, as a shell does in the background, and so would all that
    they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_worker():
    """The tests run in as many processes as there are cores: one thread in each, and in the kernels they start."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A function that makes another checkout of this project, in which some chapters end behind their parameters: a
    run started there is the same but for what these say, in half the time."""
    @functools.cache
    def made(*chapters: str) -> Path:
        folder = tmp_path_factory.mktemp("checkout")
        shutil.copy(ROOT / "run_training.py", folder)
        for name in ("lib", "notebooks"):
            shutil.copytree(ROOT / name, folder / name,
                            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        for name in chapters:
            path = folder / "notebooks" / f"{name}.ipynb"
            notebook = nbformat.read(path, as_version=4)
            del notebook.cells[2:]
            nbformat.write(notebook, path)
        return folder
    return made


def widened(kernel):
    """A kernel for matrix products, with those of bfloat16 as its instructions compute them: the factors exact, sums in
    float32, and what comes out rounded."""
    def product(keys, *tensors, **scales):
        if tensors[0].dtype is not torch.bfloat16:
            return kernel.call_boxed(keys, *tensors, **scales)
        return kernel.call_boxed(keys, *(x.float() for x in tensors), **scales).bfloat16()
    return product


@pytest.fixture(scope="session", autouse=True)
def _bfloat16_takes_no_longer_than_float32():
    """Without AVX512 torch multiplies bfloat16 number by number, and a step of a toy takes more than a second: on
    processors without instructions for it the tests have their products from `widened`."""
    if _has_bf16("cpu"):
        yield
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings(action="ignore"):  # that these kernels stand in the place of others
        for name in ("mm", "addmm", "bmm", "baddbmm"):
            kernel = torch.library.get_kernel(f"aten::{name}", "CPU")
            library.impl(name, widened(kernel), "CPU", with_keyset=True)
    yield
    library._destroy()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """A small text of the default kind, 1,100 tokens or so."""
    from lib.text.default_text import default_text
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(default_text()[:4000], "utf-8")
    return path


@pytest.fixture
def config(text_file, tmp_path):
    """The preset `tiny` on the small text, in a folder that goes away."""
    return preset_config("tiny", input_file=str(text_file), out_dir=str(tmp_path / "run"))


def pytest_generate_tests(metafunc):
    """What is said of training is said of it in both precisions that a processor computes in."""
    if "machine" in metafunc.fixturenames and metafunc.definition.path.parent.name == "training":
        metafunc.parametrize("machine", [None, torch.bfloat16], ids=["fp32", "bf16"], indirect=True)


@pytest.fixture
def machine(request) -> Machine:
    """A processor that computes in float32 or as a test asks, whatever this one is made for: it emulates bfloat16."""
    return Machine(torch.device("cpu"), getattr(request, "param", None))


@pytest.fixture
def corpus(config) -> Corpus:
    return load_corpus(config)
