"""The README's blocks say what a run's files say, and nothing else of the README changes."""
import re
import shlex

import pytest

from lib.config import InputError
from lib.model.gpt import new_model
from lib.presets import PRESETS, command_line, preset_config
from lib.publish.readme import NAMES, main, update_readme
from lib.runs.folder import RunFolder
from lib.text.corpus import load_corpus
from lib.training.machine import prepare_machine
from lib.training.provenance import provenance
from lib.training.trainer import Trainer
from run_training import parse

README = "# A project\n\n" + "\n".join(f"## {name}\n<!--AUTO:{name}:START-->\nold\n<!--AUTO:{name}:END-->\n"
                                        for name in NAMES) + "\r\nThe end, no line break"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    path = tmp_path_factory.mktemp("run")
    config = preset_config("tiny", out_dir=str(path), steps=6, log_every=1, sample_every=3)
    machine, corpus, run = prepare_machine(config), load_corpus(config), RunFolder(path)
    run.write_config(config, provenance(corpus, machine, floor=0.05))
    Trainer(new_model(config, machine.device), corpus, config, run, machine).train()
    return run


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_bytes(README.encode())
    return path


def test_the_blocks_are_filled_from_the_runs_files_and_nothing_else_changes(run, readme):
    update_readme(run, readme)
    text = readme.read_bytes().decode()
    emptied = re.sub(r"(START-->\n).*?(\n<!--AUTO)", r"\1old\2", text, flags=re.DOTALL)
    assert emptied == README
    summary, metrics = run.read_summary(), run.read_metrics()
    assert summary["verdict"].replace("<", "&lt;") in text
    assert f"| Lowest loss of a step | {metrics['loss'].min():.6f} |" in text
    assert f"| Loss over all tokens | {summary['corpus_loss']:.6f} |" in text
    assert "```bash\npython run_training.py --preset tiny --steps=6 --log_every=1 --sample_every=3\n```" in text
    assert run.read_samples()[-1][2] in text and run.log_file.read_text().splitlines()[0] in text
    picture = readme.parent / re.search(r"!\[.*\]\((.*)\)", text)[1]
    assert picture.resolve() == run.loss_curve and picture.read_bytes().startswith(b"\x89PNG")


def test_a_second_time_changes_no_byte(run, readme):
    update_readme(run, readme)
    once, picture = readme.read_bytes(), run.loss_curve.read_bytes()
    assert main(["--out_dir", str(run.path), "--readme", str(readme)]) == 0
    assert readme.read_bytes() == once and run.loss_curve.read_bytes() == picture


@pytest.mark.parametrize("damage", [
    lambda text: text.replace("<!--AUTO:LOGS:END-->", ""),
    lambda text: text.replace("<!--AUTO:PLOT:START-->", "<!--AUTO:PLOT:START-->\n<!--AUTO:PLOT:START-->"),
    lambda text: text.replace("<!--AUTO:LOGS:START-->", "").replace("<!--AUTO:PLOT:START-->",
                                                                     "<!--AUTO:PLOT:START-->\n<!--AUTO:LOGS:START-->"),
    lambda text: text.replace(":START", ":BEGIN").replace(":END", ":START").replace(":BEGIN", ":END"),
    lambda text: text + text,
    lambda text: "",
])
def test_markers_that_are_missing_doubled_or_nested_are_refused(run, readme, damage, capsys):
    readme.write_bytes(damage(README).encode())
    before = readme.read_bytes()
    assert main(["--out_dir", str(run.path), "--readme", str(readme)]) == 2
    assert "nothing was changed" in capsys.readouterr().err and readme.read_bytes() == before


def test_a_readme_has_the_blocks_that_it_wants(run, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("One\n<!--AUTO:METRICS:START-->\n<!--AUTO:METRICS:END-->\n")
    update_readme(run, readme)
    assert "| Tokens trained on |" in readme.read_text() and run.log_file.read_text()[:40] not in readme.read_text()


def test_a_run_without_files_is_refused(readme, tmp_path):
    before = readme.read_bytes()
    with pytest.raises(InputError, match=r"holds no|has logged no step"):
        update_readme(RunFolder(tmp_path / "nothing"), readme)
    assert readme.read_bytes() == before


def test_a_sample_cannot_break_out_of_its_block(run, readme, monkeypatch):
    evil = "<script>alert(1)</script>\n````\n<!--AUTO:SAMPLES:END-->\n\x1b[2Jgone\n```"
    monkeypatch.setattr(RunFolder, "read_samples", lambda self: [(1, "", evil)])
    update_readme(run, readme)
    update_readme(run, readme)  # its markers are not taken for those of the README
    text = readme.read_text()
    block = text.partition("<!--AUTO:SAMPLES:START-->")[2]
    assert block.startswith("\n`````text\n") and "\n`````\n<!--AUTO:SAMPLES:END-->" in block
    assert "\x1b" not in text and text.count("<!--AUTO:SAMPLES:END-->") == 1


def test_a_command_line_asks_for_the_same_configuration_again():
    for preset in PRESETS:
        config = preset_config(preset)
        assert command_line(config) == f"python run_training.py --preset {preset}"
        for changes in ({"prompt": "-O'er $HOME\n"}, {"compile": True, "steps": 7_000}, {"sampled_softmax": False}):
            changed = preset_config(preset, **changes)
            assert parse(shlex.split(command_line(changed))[2:])[0] == changed
