"""A person's own computer, account and text: nobody gets a wrong number, a traceback or a silent difference for them.

computers.md is the table of what was tried; every row of it names its test here.
"""
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest

import lib.runs.code as code_module
import run_training
from lib.config import ROOT, InputError
from lib.files import remove_unfinished, whole_file
from lib.launch.sweep import read_sweep
from lib.model.gpt import new_model
from lib.model.inspection import shaded
from lib.presets import preset_config
from lib.publish import notebooks
from lib.publish.export import export
from lib.publish.index import write_index
from lib.publish.readme import NAMES, update_readme
from lib.runs.folder import RunFolder
from lib.runs.locate import find_runs, open_run
from lib.show import drawing, fonts, plots
from lib.text.corpus import load_corpus
from lib.text.tokenizer import characters, encode_prompt, encoding, token_repr
from lib.training.provenance import provenance
from lib.training.stopping import StopRequest, interrupts_become
from lib.training.trainer import Trainer

TABLE = Path(__file__).with_name("computers.md")


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below a folder, with when it was written and what it holds; locks are no content."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".lock" and path.name != ".lock"}


def test_every_row_of_the_table_names_a_test_and_every_test_has_its_row():
    named = re.findall(r"`(test_\w+)` \|$", TABLE.read_text("utf-8"), re.MULTILINE)
    tests = {name for name in globals() if name.startswith("test_")}
    assert set(named) == tests - {"test_every_row_of_the_table_names_a_test_and_every_test_has_its_row"}


def test_a_folder_that_is_not_a_run_is_left_alone(config, corpus, tmp_path, capsys):
    folder = tmp_path / "mine"
    (folder / "films").mkdir(parents=True)
    for name in ("a.iso.part", "films/b.mp4.part", "report.html"):
        (folder / name).write_text("somebody's")
    before = contents(folder)
    assert run_training.main(["--preset", "tiny", "--out_dir", str(folder)]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    with pytest.raises(InputError, match="choose another --out_dir"):  # as a notebook asks for it
        open_run(dataclasses.replace(config, out_dir=str(folder)), "tiny", corpus.sha256)
    assert contents(folder) == before and len(list(folder.iterdir())) == 3


def test_only_what_this_program_left_unfinished_is_swept(tmp_path):
    somebodys = tmp_path / "logs" / "x.part"
    somebodys.parent.mkdir()
    somebodys.write_text("somebody's")
    writer = whole_file(tmp_path / "logs" / "y.csv")
    writer.__enter__()  # and never comes to its end
    left, = (path for path in somebodys.parent.iterdir() if path != somebodys)
    assert left.name.startswith(".y.csv.") and left.suffix == ".lab-part"
    remove_unfinished(tmp_path)
    assert list(somebodys.parent.iterdir()) == [somebodys]


@pytest.mark.skipif(os.name == "nt", reason="there is no hang-up")
def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it to what it starts
    try:
        with interrupts_become(tmp_path / "STOP"):
            signal.raise_signal(signal.SIGHUP)
            assert not (tmp_path / "STOP").exists()
            signal.raise_signal(signal.SIGTERM)
            assert (tmp_path / "STOP").exists()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopRequest(tmp_path / "STOP") as stop:
            signal.raise_signal(signal.SIGTERM)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def begun(config, corpus, machine):
    """A run of a few steps that was stopped by its limit."""
    config = dataclasses.replace(config, steps=3, log_every=1, save_every=1, n_embd=16)
    run = open_run(config, "tiny", corpus.sha256)
    run.write_config(config, provenance(corpus, machine, 0.0))
    Trainer(new_model(config, machine.device), corpus, config, run, machine).train()
    return run


def test_a_second_resume_is_refused_before_it_writes(begun, monkeypatch, capsys):
    reached = []
    monkeypatch.setattr(run_training, "execute", lambda config, run: reached.append(config) or 0)
    first = RunFolder(begun.path)
    first.claim.take()
    begun.stop_file.touch()  # what stops the first is not the second's to remove
    before = contents(begun.path)
    arguments = ["--resume", str(begun.path), "--steps", "9"]
    assert run_training.main(arguments) == 2 and "another run_training.py is at work" in capsys.readouterr().err
    assert contents(begun.path) == before and not reached
    del first
    assert run_training.main(arguments) == 0 and reached[0].steps == 9


def test_a_notebook_leaves_the_run_of_a_run_training_alone(begun, config, corpus, monkeypatch):
    monkeypatch.setattr("lib.runs.folder.PATIENCE_SEC", 0.1)
    again = dataclasses.replace(begun.read_config()[0], resume=str(begun.path), out_dir="")
    seen_to = RunFolder(begun.path)
    seen_to.claim.take()
    with pytest.raises(InputError, match=r"another run_training\.py is at work"):
        open_run(again, "notebook", corpus.sha256)
    assert open_run(again, "given", corpus.sha256).path == begun.path  # its own notebook
    del seen_to
    one = open_run(again, "notebook", corpus.sha256)
    one.hold()
    with pytest.raises(InputError, match="another process is training"):  # from the first file on, not the first step
        open_run(again, "notebook", corpus.sha256)


def test_a_persons_matplotlib_settings_stop_nothing(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black"}):  # as a matplotlibrc sets them
        figure = plots.bars(["'a'", "'b'"], [1.0, 2.0], "times")
        assert drawing.png(figure).startswith(b"\x89PNG")
        assert figure.axes[0].get_facecolor() == (0, 0, 0, 0)
        figure.text(0, 0, "a", usetex=True)
        drawing.show(figure, "Two bars")
    assert "Two bars\\n(this figure could not be drawn: " in capsys.readouterr().out


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A function that runs a notebook of one cell, behind a parameters cell, and returns what the cell printed."""
    def run(source, parameters="value: int = 1  # a parameter", folder=tmp_path, outcome="completed"):
        monkeypatch.setattr(notebooks, "SOURCES", folder)
        cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                 nbformat.v4.new_code_cell(source)]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                    "language_info": {"name": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "n.ipynb")
        assert notebooks.run_notebook("n", folder / "out.ipynb", {"value": 7}) == outcome
        told, = nbformat.read(folder / "out.ipynb", as_version=4).cells[-1].outputs
        return told.text.strip() if told.output_type == "stream" else json.dumps(told)
    return run


def test_a_backend_that_is_not_there_is_not_asked_for(executed, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    source = "from lib.show import drawing, plots; print(len(drawing.png(plots.bars(['a'], [1.0], 'b'))) > 999)"
    assert executed(source) == "True"


def test_notebooks_run_in_this_interpreter_whatever_is_called_python3(executed, tmp_path, monkeypatch):
    specification = tmp_path / "kernels" / "python3" / "kernel.json"
    specification.parent.mkdir(parents=True)
    specification.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "Another", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    # a notebook names what is in this project by its place there
    assert ROOT / executed("import sys; print(sys.executable)") == Path(sys.executable)


def test_a_long_name_of_the_folder_for_temporary_files_does_no_harm(executed, tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 121)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert executed("import tempfile; print(value, tempfile.gettempdir())") == f"7 {folder}"


def test_a_folder_may_be_named_like_a_pattern(executed, tmp_path):
    folder = tmp_path / "{proj}"
    folder.mkdir()
    assert executed("print(value)", folder=folder) == "7"


def test_a_start_up_file_sets_no_parameter(executed, tmp_path, monkeypatch):
    start_up = tmp_path / "profile_default" / "startup" / "00.py"
    start_up.parent.mkdir(parents=True)
    start_up.write_text("device = 'cuda:0'")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    source = "from lib.presets import notebook_config; c = notebook_config(globals()); print(device, c.device, c.steps)"
    assert executed(source, 'preset: str = "tiny"  # a\nsteps: int = 9  # b') == "cuda:0 auto 9"


def test_tokens_that_are_parts_of_a_character_are_shown_as_such():
    text = "罗密欧：我的爱人。"
    tokens = encoding().encode(text)
    assert len(tokens) > len(text) and not any("\ufffd" in token_repr(token) for token in tokens)
    assert "".join(piece for piece, _ in characters(tokens)) == text
    places = [place for _, place in characters(tokens)]
    assert [i for place in places for i in range(len(tokens))[place]] == list(range(len(tokens)))
    page = shaded(np.array(tokens), np.ones(len(tokens)))
    assert re.sub("<[^>]*>", "", page) == text and "1.00 + 1.00" in page
    assert re.sub("<[^>]*>", "", shaded(np.array(tokens[1:-1]), np.ones(len(tokens) - 2))).count("\\x") >= 1
    assert token_repr(encoding().encode("a")[0]) == "'a'" and re.fullmatch(r"b'(\\x..)+'", token_repr(tokens[0]))


def test_a_figure_shows_what_its_font_has_not(monkeypatch):
    nowhere, elsewhere = "\U0001f9ff", next(  # a character that another font of matplotlib's own has
        chr(code) for code in sorted(fonts._characters(fonts.findfont("STIXGeneral")))
        if chr(code).isprintable() and code not in fonts._characters(fonts.findfont(fonts.OWN)))
    monkeypatch.setattr(fonts.fontManager, "ttflist", [font for font in fonts.fontManager.ttflist
                                                       if font.name in (fonts.OWN, "STIXGeneral")])
    texts, families = fonts.legible(["plain", nowhere + elsewhere])
    assert texts == ["plain", "U+1F9FF" + elsewhere] and families == [fonts.OWN, "STIXGeneral"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing.png(plots.bars(["plain", nowhere + elsewhere], [1.0, 2.0], nowhere))
        drawing.png(plots.matrix(np.eye(2), "a", [nowhere, elsewhere], "x", "y"))


def as_somebody(*command, **options):
    """Run a command as one whom the modes of files bind, which the superuser is not without being told."""
    if os.name == "nt" or (os.geteuid() == 0 and not shutil.which("setpriv")):
        pytest.skip("no way here to be bound by the modes of files")
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    return subprocess.run([*drop, *map(str, command)], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def modes():
    """A function that changes the modes of files and folders until the test ends."""
    changed = {}

    def change(mode, *paths):
        for path in paths:
            changed[path] = path.stat().st_mode
            path.chmod(mode)
    yield change
    for path, mode in changed.items():
        path.chmod(mode)


def test_what_one_may_not_read_or_write_is_refused_in_one_line(begun, modes, tmp_path):
    secret, checkout = tmp_path / "secret.txt", tmp_path / "checkout"
    secret.write_text("A secret. " * 400)
    shutil.copytree(ROOT / "lib", checkout / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_training.py", checkout)
    (checkout / "data").mkdir()
    modes(0o000, secret)
    modes(0o555, checkout, checkout / "data", *(path for path in [begun.path, *begun.path.rglob("*")] if path.is_dir()))
    out = ["--preset", "tiny", "--out_dir", tmp_path / "out"]
    for program, arguments, message in ((ROOT, ["--input_file", secret, *out], "cannot be read"),
                                        (checkout, out, "name another with --input_file"),
                                        (ROOT, ["--resume", begun.path], "cannot be written to")):
        done = as_somebody(sys.executable, "-B", program / "run_training.py", *arguments,
                           env=os.environ | {"PYTHONPATH": str(program)})
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_only_read_is_left_as_it_is(begun, modes):
    begun.training.path.unlink()
    modes(0o555, begun.path)
    call = f"from lib.runs.folder import RunFolder; run = RunFolder({str(begun.path)!r}); print(run.read_summary()" \
           "['state'], run.is_locked(), len(run.read_metrics()))"
    done = as_somebody(sys.executable, "-c", call, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["limit", "False", "3"], done.stderr
    assert not begun.training.path.exists()  # reading takes no lock that is not there


BAD = ["", '{"parameters": {"n_lay', "[]", '{"model_type": "gpt2"}', '{"parameters": {"tea": 3}}', "\xff", "{}",
       '{"parameters": {}}']


@pytest.mark.parametrize("content", BAD)
def test_a_config_that_cannot_be_read_is_refused_in_one_line(begun, content, capsys):
    begun.config_file.write_bytes(content.encode("latin-1"))
    for option in ("--resume", "--reproduce"):
        assert run_training.main([option, str(begun.path)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and ("config.json" in message or "parameters this one does not" in message)


def test_a_run_that_cannot_be_read_is_left_out_and_named(begun):
    folder = begun.path.parent
    for number, content in enumerate(BAD):
        bad = shutil.copytree(begun.path, folder / f"bad-{number}")
        (bad / "config.json").write_bytes(content.encode("latin-1"))
    (shutil.copytree(begun.path, folder / "bad-summary") / "summary.json").write_text("[")
    (shutil.copytree(begun.path, folder / "bad-rows") / "logs" / "train_metrics.csv").write_text("step,mean\n1,x,2\n")
    runs, unread = find_runs(f"{folder}/*")
    assert [run.path for run in runs] == [begun.path]
    assert set(unread) == {*(f"bad-{number}" for number in range(len(BAD))), "bad-summary", "bad-rows"}
    assert "whose parameters this one does not know" in unread["bad-4"]
    page = write_index(folder).read_text("utf-8")
    assert "Could not be read: bad-0, " in page and "bad-summary" in page and "2 runs" in page  # its own and bad-7's


def test_white_space_without_end_is_refused_in_one_line(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A word." + "\n" * 999_999 + "word\nword")
    with pytest.raises(InputError, match="999,999 blanks and line breaks follow one another"):
        load_corpus(preset_config("tiny", input_file=str(text), max_tokens=0))


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("screen", ["", ">&-", "<&- >&- 2>&-"])
def test_a_screen_of_another_encoding_or_none_stops_nothing(screen, text_file, tmp_path):
    folder = tmp_path / "日本"
    call = ("import sys, os, run_training\n"
            "run_training.execute = lambda config, run: print('日本', os.fstat(1).st_ino, run.path) or 0\n"
            "run_training.prepare_streams(); sys.exit(run_training.main(sys.argv[1:]))")
    command = [sys.executable, "-c", call, "--preset", "tiny", "--input_file", text_file, "--out_dir", folder]
    done = subprocess.run(["bash", "-c", f'"$@" {screen}', "bash", *command], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == "" if screen else "?? " in done.stdout
    assert folder.is_dir() and not any(path.stat().st_size for path in folder.rglob("*"))


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(tmp_path, capsys):
    out = ["--out_dir", str(tmp_path / "out")]
    for arguments in (["--input_file", "caf\udce9.txt", *out], ["--note", "caf\udce9", *out],
                      ["--out_dir", str(tmp_path / "caf\udce9")]):
        with pytest.raises(SystemExit, match="2"):
            run_training.main(["--preset", "tiny", *arguments])
        assert "bytes that are not UTF-8" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_readme_keeps_its_line_ends_its_mode_and_its_place(begun, tmp_path):
    readme, link = tmp_path / "real.md", tmp_path / "README.md"
    blocks = "".join(f"<!--AUTO:{name}:START-->\r\nold\r\n<!--AUTO:{name}:END-->\r\n" for name in NAMES)
    readme.write_bytes(f"# Title\r\n{blocks}The end.\r\n".encode())
    readme.chmod(0o660)
    link.symlink_to(readme)
    update_readme(begun, link)
    text = readme.read_bytes().decode()
    assert text.startswith("# Title\r\n<!--AUTO") and text.endswith("-->\r\nThe end.\r\n") and "old" not in text
    assert text.count("\n") == text.count("\r\n") and readme.stat().st_mode & 0o777 == 0o660 and link.is_symlink()


def test_the_exported_tokenizer_reads_an_end_of_text_as_the_model_did(begun, tmp_path):
    from transformers import AutoTokenizer
    text = tmp_path / "documents.txt"
    text.write_text("One play.\n<|endoftext|>Another play. <|endoftext|>\n\nThe end \n<|endoftext|>" * 9)
    tokens = load_corpus(preset_config("tiny", input_file=str(text))).tokens.tolist()
    assert tokens.count(50256) == 27
    assert AutoTokenizer.from_pretrained(export(begun, tmp_path / "model"))(text.read_text()).input_ids == tokens
    assert encode_prompt("<|endoftext|>", 32) == [50256]


def test_no_commit_is_named_of_a_checkout_of_something_else(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", tmp_path]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    (tmp_path / "download").mkdir()
    monkeypatch.setattr(code_module, "ROOT", tmp_path / "download")
    nothing = {"commit": None, "dirty": None, "diff": None}
    assert code_module.git_state() == nothing
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as a hook of the other one has it
    assert code_module.git_state() == nothing
    monkeypatch.setattr(code_module, "ROOT", tmp_path)
    assert code_module.git_state()["commit"]


@pytest.mark.skipif(os.name == "nt", reason="pipes that have a name")
def test_a_message_names_the_cause(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    for arguments, message in ((["--max_tokens", "20"], "raise --max_tokens"),
                               (["--compile", "False"], "--compile takes no value: say --compile for True"),
                               (["--no-compile=True"], "takes no value"),
                               (["--input_file", str(tmp_path / "pipe")], "is a pipe or a device"),
                               (["--input_file", f"/dev/fd/{reading}"], "is a pipe or a device"),
                               (["--input_file", str(tmp_path)], "is a folder: save the text in a file")):
        assert run_training.main(["--preset", "tiny", "--out_dir", str(tmp_path / "out"), *arguments]) == 2
        assert message in capsys.readouterr().err
    os.close(reading), os.close(writing)
    with pytest.raises(InputError, match=r"note must be text \(papermill's -r\), not 2024"):
        preset_config("tiny", note=2024)


def test_warnings_as_errors_do_not_keep_a_notebook_from_ending(executed, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    begin = time.monotonic()
    assert executed("print(value)") == "7" and time.monotonic() - begin < 20


def test_a_home_that_is_read_only_is_not_asked_for(executed, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(home) and access(path, mode))
    assert executed("import os, matplotlib.figure; print(os.environ['HOME'])") != str(home)
    assert not list(home.iterdir())


def test_a_notebook_names_no_folder_of_this_computer(executed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    printed = executed(f"print({str(tmp_path / 'mine')!r}, {str(ROOT / 'lib' / 'config.py')!r})")
    assert printed == os.path.join("~", "mine") + " " + os.path.join("lib", "config.py")
    for source, outcome in ((f"raise OSError({str(tmp_path / 'mine')!r})", "failed"),
                            (f"{str(tmp_path / 'mine')!r}", "completed")):
        told = executed(source, outcome=outcome)
        assert str(tmp_path) not in told and "mine" in told
    told = executed("from lib.config import RunConfig\nRunConfig(batch_size=0)", outcome="failed")
    assert str(ROOT) not in told and "config.py" in told and "batch_size must be at least 1" in told


def test_a_run_that_failed_names_no_folder_of_this_computer(begun, monkeypatch):
    monkeypatch.setenv("HOME", str(begun.path))
    begun.log(f"Failed: no space in {begun.path / 'logs'}")
    begun.write_summary(begun.read_summary() | {"verdict": f"Failed: no space in {begun.path / 'logs'}"})
    line = begun.log_file.read_text("utf-8").splitlines()[-1]
    assert line == begun.read_summary()["verdict"] == f"Failed: no space in {os.path.join('~', 'logs')}"


def test_a_checkout_may_be_named_like_a_glob(begun, monkeypatch, tmp_path):
    checkout = tmp_path / "x[1]"
    shutil.copytree(begun.path, checkout / "runs" / "a")
    monkeypatch.setattr("lib.runs.locate.ROOT", checkout)
    found, unread = find_runs("runs/*")
    assert [run.path.name for run in found] == ["a"] and not unread


def test_no_run_begins_in_the_folder_of_a_sweep(config, corpus, tmp_path):
    (tmp_path / "seeds.yaml").write_text("preset: tiny\ngrid: {seed: [1, 2]}")
    sweep = read_sweep(tmp_path / "seeds.yaml", str(tmp_path / "seeds"))
    sweep.folder.mkdir()
    sweep.claim()
    sweep.lock.let_go()
    before = contents(sweep.folder)
    with pytest.raises(InputError, match="choose another --out_dir"):
        open_run(dataclasses.replace(config, out_dir=str(sweep.folder)), "tiny", corpus.sha256)
    assert contents(sweep.folder) == before


def test_what_a_run_recites_is_not_kept_where_it_may_only_be_read(begun, modes):
    begun.recall_file.parent.mkdir(exist_ok=True)
    modes(0o555, begun.path, begun.recall_file.parent)
    call = "from lib.runs.folder import RunFolder; from lib.runs.recall import write_recall; " \
           f"write_recall(RunFolder({str(begun.path)!r}), 1, {{}}, [])"
    done = as_somebody(sys.executable, "-c", call, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.startswith("not kept for the report: ") and done.returncode == 0, done.stderr
