"""The whole thing as a person starts it: one command, its files, its report, its exit code."""
import csv
import dataclasses
import html.parser
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

import run_training
from lib.config import ROOT, InputError, relative_to_root
from lib.launch.sweep import read_sweep
from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.publish.index import write_index
from lib.publish.notebooks import run_notebook
from lib.publish.readme import NAMES
from lib.publish.report import CHAPTERS, PAGE
from lib.runs.checkpoint import load_checkpoint
from lib.runs.folder import RunFolder
from lib.runs.locate import open_run, recorded_amp
from lib.runs.recall import read_recall
from lib.text.corpus import load_corpus
from lib.training.machine import prepare_machine
from lib.training.provenance import provenance
from lib.training.trainer import Trainer

BUSY = "IOStream.flush timed out\n"  # what ipykernel says where a machine is so busy that an output waits 10 s
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def start(*arguments, timeout=300, root=ROOT):
    command = [sys.executable, root / "run_training.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=root)
    done.stderr = done.stderr.replace(BUSY, "")
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the preset tiny to its target, its folder and what it printed; done once for several tests."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done = start("--preset", "tiny", "--out_dir", folder, "--steps", 400)
    assert done.returncode == 0, done.stdout + done.stderr
    return RunFolder(folder), done


class Page(html.parser.HTMLParser):
    """The tags, ids, links and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_without_arguments_the_default_run_is_asked_for():
    config, preset, _ = run_training.parse([])
    assert preset in ("excerpt", "full") and config == preset_config(preset)


def test_a_run_ends_with_its_files_and_says_where_they_are(finished):
    run, done = finished
    for path in (run.config_file, run.summary_file, run.log_file, run.metrics_file, run.samples_file,
                 run.last_checkpoint, run.best_checkpoint, run.report, *map(run.notebook, CHAPTERS)):
        assert path.stat().st_size > 0, path
    assert not list(run.path.rglob("*.lab-part"))
    summary = run.read_summary()
    assert summary["state"] == "reached" and summary["corpus_loss"] < summary["target_loss"] == 4.0
    assert summary["verdict"] in done.stdout and "report.html" in done.stdout
    assert "step     1 | loss " in done.stdout and done.stderr == ""


def test_every_executed_notebook_ran_to_its_end(finished):
    for name in CHAPTERS:
        notebook = nbformat.read(finished[0].notebook(name), as_version=4)
        assert {cell.metadata.papermill.status for cell in notebook.cells} == {"completed"}
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"], name


def test_config_json_records_what_ran_and_nobody(finished):
    run, _ = finished
    config, facts = run.read_config()
    assert config.steps == 400 and config.n_layer == 2
    assert re.fullmatch("[0-9a-f]{64}", facts["corpus"]["sha256"]) and facts["corpus"]["tokens"] == 512
    assert facts["versions"]["torch"] and facts["machine"]["device"]
    assert set(facts["code"]) == {"commit", "dirty", "diff"}
    text = run.config_file.read_text()
    assert os.path.expanduser("~") not in text and str(ROOT) not in text


def test_metrics_are_a_plain_csv_and_samples_a_plain_text(finished):
    run, _ = finished
    with open(run.metrics_file, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "tokens", "loss", "mean_loss", "rate", "grad_norm", "tokens_per_sec",
                             "elapsed_sec", "corpus_loss"]
    assert float(rows[-1]["corpus_loss"]) == run.read_summary()["corpus_loss"]
    assert re.match(r'STEP: 30\nPROMPT: "First Citizen:\\nBefore we proceed any further, hear me speak.\\n\\n"\n'
                    r'OUTPUT:\nFirst Citizen:\n', run.samples_file.read_text())


def test_the_report_is_one_page_that_needs_nothing_else(finished):
    run, _ = finished
    text = run.report.read_text()
    page = Page(text)
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    figures = [svg for svg in page.all("svg") if "preserveaspectratio" not in svg]  # those are parts of one
    assert len(figures) >= 19 and all(svg["role"] == "img" and svg["aria-label"] for svg in figures)
    assert all("narrow" in b["class"] for a, b in itertools.pairwise(figures) if "wide" in a["class"])
    assert not re.search(r"url\((?!#)|@import", re.sub(r"data:[^\"]*", "", text))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in page.all("a") if "href" in link]
    assert links and {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert len(page.all("h1")) == 1 and len(page.all("h3")) >= 15
    chapters = ["Results", "Training", "The text", "The model"]
    assert [words for words in page.texts if words in chapters][4:] == chapters  # after the contents
    told = "".join(page.texts)
    assert run.read_summary()["verdict"] in told
    assert "trainer.train()" in told and len(page.all("details")) > 20  # the code is there, folded
    assert told.count("decay of AdamW's mean of squared gradients") == 1  # the parameters, once
    assert len(text) < 2_000_000


def test_the_first_screen_tells_what_the_run_can_recite(finished):
    run, _ = finished
    recall, page = read_recall(run), run.report.read_text().partition("</header>")[0]
    assert recall["step"] == run.read_summary()["step"] and set(recall["trials"]) == {"anywhere", "anywhere, untrained"}
    first, second = recall["asked"]
    assert second["begins"] - first["begins"] == 7 and first["tokens"] == 16
    assert f"{first['right_tokens']} of 16 tokens right" in page and "passages recited" in page


def test_the_report_is_a_notebook_too(finished):
    run, _ = finished
    report = nbformat.read(run.notebook("report"), as_version=4)
    chapters = [nbformat.read(run.notebook(name), as_version=4) for name in PAGE]
    assert [cell.source for cell in report.cells] == [cell.source for chapter in chapters for cell in chapter.cells]
    assert report.metadata.kernelspec.name == "python3"
    nbformat.validate(report)


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_a_terminal_shows_a_bar_and_no_terminal_none_and_a_closed_one_stops_the_run(finished, checkout, tmp_path):
    parent, child = os.openpty()
    place = checkout("1_data", "2_model", "4_results")
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, place / "run_training.py", "--preset", "tiny", "--steps", "100000", "--target_loss", "1",
               "--out_dir", run.path]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    process = subprocess.Popen(command, stdout=child, stderr=child, cwd=place, env=environment, close_fds=True)
    os.close(child)
    shown = text = ""
    while not re.search(r"step +\d+/100000 .*mean loss \d\.\d+, target 1 in some \d+ min", text):
        shown += os.read(parent, 65536).decode(errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "step     1 | loss " in text
    os.close(parent)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 130
    summary = run.read_summary()
    assert summary["state"] == "stopped" and summary["verdict"] in run.report.read_text()
    assert load_checkpoint(run.last_checkpoint)["progress"]["step"] == summary["step"]
    assert "/400 " not in finished[1].stdout and "\x1b" not in finished[1].stdout


def test_the_readme_is_filled_from_the_run_if_that_is_asked_for(finished, tmp_path, monkeypatch, capsys):
    readme, untouched = tmp_path / "README.md", tmp_path / "run"
    monkeypatch.setattr(run_training, "README", readme)
    monkeypatch.setattr(run_training, "execute", lambda config, run: shutil.copytree(
        finished[0].path, run.path, dirs_exist_ok=True) and 0)
    arguments = ["--preset", "tiny", "--update_readme", "--out_dir", str(untouched)]
    readme.write_text("no markers")
    assert run_training.main(arguments) == 2 and "AUTO:PLOT:START" in capsys.readouterr().err
    assert not untouched.exists()
    readme.write_text("".join(f"<!--AUTO:{name}:START--><!--AUTO:{name}:END-->" for name in NAMES))
    assert run_training.main(arguments) == 0
    assert finished[0].read_summary()["verdict"].partition(" <")[0] in readme.read_text()


def test_runs_are_compared_in_a_notebook(finished, tmp_path):
    outcome = run_notebook("compare_runs", tmp_path / "out.ipynb", {"runs": str(finished[0].path)})
    text = (tmp_path / "out.ipynb").read_text()
    assert outcome == "completed" and "the course project's run" in text and text.count("<figure>") >= 2


def test_a_run_is_done_again_and_compared(finished, tmp_path, monkeypatch, capsys):
    original, _ = finished
    asked = []

    def execute(config, run):
        asked.append(config)
        metrics = original.read_metrics()
        metrics[["loss", "mean_loss"]] *= 1 if len(asked) == 1 else 1.02
        run.metrics_file.parent.mkdir()
        metrics.to_csv(run.metrics_file, index=False)
        return 0

    monkeypatch.setattr(run_training, "execute", execute)
    for expected, words in ((0, "bit for bit"), (4, "Not reproduced: the mean losses")):
        folder = tmp_path / f"again-{expected}"
        assert run_training.main(["--reproduce", str(original.path), "--out_dir", str(folder)]) == expected
        assert words in capsys.readouterr().out
        expected_config = dataclasses.replace(original.read_config()[0], out_dir="", amp=recorded_amp(original))
        assert dataclasses.replace(asked[-1], out_dir="") == expected_config
    other = tmp_path / "other.txt"
    other.write_text("Another text. " * 400)
    for arguments, message in ((["--input_file", str(other)], "is not the text"), (["--resume", "x"], "choose one"),
                               (["--preset", "full"], "leave --preset out")):
        assert run_training.main(["--reproduce", str(original.path), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_run_that_has_ended_goes_on_with_resume_and_exits_3_at_its_limit(finished, tmp_path):
    original, done = finished
    run = RunFolder(shutil.copytree(original.path, tmp_path / "run"))
    before, end = original.read_metrics(), original.read_summary()["step"]
    again = start("--preset", "tiny", "--out_dir", run.path)
    assert again.returncode == 2 and "holds a run already" in again.stderr
    resumed = start("--resume", run.last_checkpoint, "--steps", end + 20, "--target_loss", 1)
    assert resumed.returncode == 3 and f"resumed at step {end}" in resumed.stdout, resumed.stdout + resumed.stderr
    assert "Target 1 not reached within the limits" in run.report.read_text()
    after = run.read_metrics()
    assert after.iloc[:len(before)].equals(before)
    assert after["step"].tolist()[len(before):] == sorted({*range(end // 5 * 5 + 5, end + 20, 5), end + 20})
    config, facts = run.read_config()
    assert config.steps == end + 20 and facts["before"][0]["parameters"]["steps"] == 400
    assert run.read_summary()["restarts"] == [end]
    assert "different before a resume: steps, target_loss" in run.report.read_text()
    assert run.notebook("3_training.1").exists() and run.notebook("3_training").exists()
    assert "2_model" in done.stdout and "2_model" not in resumed.stdout  # executed once


@pytest.mark.parametrize(("arguments", "message"), [
    (["--batch_size", "0"], "batch_size must be at least 1, not 0"),
    (["--seq_len", "2000"], "seq_len 2000 is longer than block_size 1024"),
    (["--batch_sise", "4"], "--batch_size"),
    (["--preset", "exerpt"], "did you mean excerpt?"),
    (["--input_file", "nowhere.txt"], "there is no text file"),
    (["--resume", "runs/nowhere"], "holds no run that has begun to train: start a new one"),
    (["--preset", "tiny", "--prompt", "word " * 40], "shorten --prompt"),
    (["--lr", "fast"], "fast"),
    (["--preset", "tiny", "--target_loss", "0.001"], "no model can reach a loss of 0.001"),
    pytest.param(["--device", "cuda"], "--device auto",
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")),
])
def test_bad_arguments_exit_2_with_one_message_and_write_nothing(arguments, message, tmp_path):
    folder = tmp_path / "run"
    done = start("--out_dir", folder, *arguments)
    assert done.returncode == 2, done.stdout
    assert message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        done = start("--preset", "tiny", "--out_dir", folder)
        assert done.returncode == 2 and "choose another --out_dir" in done.stderr.lower(), done.stderr


def test_help_explains_every_parameter_in_less_than_a_second():
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        done = start("--help")
        times.append(time.perf_counter() - begin)
    assert done.returncode == 0 and min(times) < 1.0
    for name in run_training.Arguments.__dataclass_fields__:
        assert re.search(rf"--{name}\b", done.stdout), name


def test_a_sweep_runs_its_points_compares_them_and_touches_none_again(checkout, tmp_path):
    file, folder = tmp_path / "seeds.yaml", tmp_path / "a folder [1]"
    file.write_text("preset: tiny\nsteps: 10\namp: off\ntarget_loss: 0\ngrid: {seed: [1, 2]}\n")
    sweep = read_sweep(file, relative_to_root(folder))
    sweep.folder.mkdir()
    sweep.claim()  # as a driver leaves it that was killed after the first point
    sweep.lock.let_go()
    config, run = sweep.points[0].config, sweep.points[0].run
    machine, corpus = prepare_machine(config), load_corpus(config)
    run.write_config(config, provenance(corpus, machine, floor=0.0))
    Trainer(new_model(config, machine.device), corpus, config, run, machine).train()
    run.report.write_text("")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("1-seed*/**/*") if path.suffix}
    done = start("--sweep", file, "--out_dir", folder, root=checkout("1_data", "2_model", "4_results"))
    assert done.returncode == 3 and done.stderr == "", done.stdout + done.stderr
    assert "2 points, 1 of them done" in done.stdout and "1-seed=1: begins" not in done.stdout
    assert "2-seed=2: begins" in done.stdout and "2-seed=2: Trained to the limits" in done.stdout
    assert re.search(r"all +2 +0 +\d\.\d{6} ± \d\.\d{6}", done.stdout)
    text = "".join(Page((folder / "compare_runs.html").read_text()).texts)
    assert "2 runs: 2 limit" in text and "1-seed=1" in text and "2-seed=2" in text and "Over seeds" in text
    assert 'href="1-seed%3D1/report.html"' in (folder / "index.html").read_text()
    assert len(before) > 5 and before == {path: path.stat().st_mtime_ns for path in before}


def test_a_sweep_with_a_point_that_cannot_be_is_refused_before_any_begins(tmp_path):
    file = tmp_path / "rates.yaml"
    file.write_text("preset: tiny\ngrid: {target_loss: [4, 0.001]}")
    begin = time.perf_counter()
    done = start("--sweep", file, "--out_dir", tmp_path / "sweep")
    assert done.returncode == 2 and time.perf_counter() - begin < 5
    assert "point 2-target_loss=0.001: no model can reach" in done.stderr
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--steps", "3"], "write --steps into it"),
    (["--preset", "tiny"], "write --preset into it"),
    (["--resume", "x"], "leave --resume and --reproduce out"),
    (["--parallel", "-1"], "parallel must be at least 0"),
    (["--executor", "slurm"], "install the extra by pip install -e"),
])
def test_what_a_sweep_does_not_take_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)  # as where the extra is not installed
    (tmp_path / "seeds.yaml").write_text("preset: tiny\ngrid: {seed: [1, 2]}")
    folder = ["--out_dir", str(tmp_path / "sweep")]
    assert run_training.main(["--sweep", str(tmp_path / "seeds.yaml"), *folder, *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "sweep").exists()


def test_what_only_a_sweep_takes_is_refused_without_one(capsys):
    assert run_training.main(["--preset", "tiny", "--parallel", "2"]) == 2
    assert "are for the points of a sweep" in capsys.readouterr().err


COURSE_FLAGS = (
    "input_file out_dir seed block_size n_layer n_head n_embd batch_size seq_len grad_accum steps lr weight_decay "
    "beta1 beta2 clip_grad randomize_batches target_loss log_every save_every sample_every resume prompt num_prompts "
    "max_new_tokens top_k temperature compile amp"
)



def test_the_course_projects_command_lines_mean_what_they_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("--input_file data/input.txt --out_dir out --steps 200000 --batch_size 8 --seq_len 256 --grad_accum 4 "
            "--lr 3e-4 --log_every 50 --save_every 2000 --sample_every 2000 --randomize_batches --amp fp16 --compile")
    config, preset, _ = run_training.parse(line.split())
    assert preset == "plain" and config.max_tokens == 0 and config.lr_schedule == "constant"
    assert (config.steps, config.batch_size, config.seq_len, config.grad_accum, config.lr) == (200_000, 8, 256, 4, 3e-4)
    assert config.order == "random" and config.compile and config.amp == "fp16"
    assert (ROOT / config.input_file).resolve() == (tmp_path / "data" / "input.txt").resolve()
    assert (ROOT / config.out_dir).resolve() == (tmp_path / "out").resolve()
    assert set(run_training.Arguments.__dataclass_fields__) >= set(COURSE_FLAGS.split())


def test_a_flag_wins_over_its_preset():
    config, preset, _ = run_training.parse(["--preset", "tiny", "--steps", "7"])
    assert (preset, config.steps, config.n_layer) == ("tiny", 7, 2)


def test_what_a_run_depends_on_cannot_change_when_it_goes_on(finished):
    run, _ = finished
    sha256 = run.read_config()[1]["corpus"]["sha256"]
    config, *_ = run_training.parse(["--resume", str(run.path), "--steps", "500", "--target_loss", "3"])
    assert open_run(config, "resumed", sha256).path == run.path
    config, *_ = run_training.parse(["--resume", str(run.path), "--out_dir", "elsewhere"])
    with pytest.raises(InputError, match="leave --out_dir out"):
        open_run(config, "resumed", sha256)
    config, *_ = run_training.parse(["--resume", str(run.path), "--n_layer", "3"])
    with pytest.raises(InputError, match=r"n_layer was 2 .* cannot become 3"):
        open_run(config, "resumed", sha256)


def test_watch_tells_what_became_of_a_run(finished, tmp_path):
    run = RunFolder(shutil.copytree(finished[0].path, tmp_path / "run"))
    run.write_summary(run.read_summary() | {"state": "running"})  # what a kill leaves
    assert run_notebook("watch", tmp_path / "watch.ipynb", {"out_dir": str(run.path)}) == "completed"
    outputs = [output for cell in nbformat.read(tmp_path / "watch.ipynb", as_version=4).cells
               for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    step = run.read_summary()["step"]
    assert "killed, heartbeat 20" in text and f"Killed after step {step}, last heard of at" in text
    assert any("<figure>" in output.get("data", {}).get("text/html", "") for output in outputs)


def test_a_preset_is_not_given_beside_a_run_to_go_on_with(finished):
    run, _ = finished
    before = run.config_file.read_bytes()
    done = start("--resume", run.path, "--preset", "full")
    assert done.returncode == 2 and "hold for --resume: leave --preset out" in done.stderr
    assert run.config_file.read_bytes() == before


def test_best_pt_is_no_place_to_resume_from(finished):
    run, _ = finished
    done = start("--resume", run.best_checkpoint)
    assert done.returncode == 2 and "goes on from its last.pt" in done.stderr


def test_checkpoints_that_are_all_damaged_are_refused_before_anything_is_written(finished, tmp_path):
    run = RunFolder(shutil.copytree(finished[0].path, tmp_path / "run"))
    for path in run.checkpoints():
        path.write_bytes(b"no checkpoint")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name != ".lock"}
    done = start("--resume", run.path)
    assert done.returncode == 2 and "the digest does not fit" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name != ".lock"}


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory, checkout):
    """A run of a text that means harm, without a target, and what it printed; done once for several tests."""
    folder = tmp_path_factory.mktemp("untrusted")
    evil = "<script>alert(1)</script>\n<img src=x onerror=alert(2)>\n```\n\x1b[31mred\x1b[0m $x$ 'quote'\n"
    (folder / "evil.txt").write_text(evil * 60, "utf-8")
    done = start("--preset", "tiny", "--input_file", folder / "evil.txt", "--out_dir", folder / "run", "--steps", 60,
                 "--target_loss", 0, "--prompt", "<script>alert(3)</script><b>", root=checkout("2_model"))
    assert done.returncode == 3, done.stdout + done.stderr
    return RunFolder(folder / "run"), done


def test_untrusted_text_stays_text(untrusted):
    """what the corpus and the samples say never becomes part of the page"""
    run, _ = untrusted
    page = Page(run.report.read_text())
    assert page.all("script") == [] and all("onerror" not in attributes for _, attributes in page.tags)
    assert "<script>alert(1)</script>" in "".join(page.texts)
    assert json.loads(run.config_file.read_text())["parameters"]["prompt"].startswith("<script>")


def test_a_run_without_a_target_ends_at_its_steps_and_shows_none(untrusted):
    run, done = untrusted
    assert "Trained to the limits, without a target: largest loss over all 512 tokens" in done.stdout
    page = Page(run.report.read_text())
    assert "it had no target" in "".join(page.texts)
    assert 'class="target"' not in run.report.read_text()
    assert "target none, floor" in "".join(page.texts) and "target 0" not in "".join(page.texts)
    assert "--target_loss=0.0" in "".join(page.texts)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 768, 390])
def test_the_pages_fit_the_screen_ask_for_nothing_and_are_accessible(finished, width, scheme):
    pages = (finished[0].report, write_index(finished[0].path.parent))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for path in pages:
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = [violation for violation in Axe().run(page).response["violations"]
                     if violation["impact"] in ("serious", "critical")]
            assert not found, [(violation["id"], [node["html"] for node in violation["nodes"][:3]])
                               for violation in found]
        assert {url for url in asked if not url.startswith("data:")} == {path.as_uri() for path in pages}
        browser.close()
