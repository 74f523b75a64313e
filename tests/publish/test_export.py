"""What is exported is the same model, for transformers and for this project, and its card says what the files say."""
import dataclasses
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import run_training
from lib.config import ROOT, InputError
from lib.model.gpt import new_model
from lib.model.sampling import generate
from lib.presets import command_line
from lib.publish.export import export, main, model_card
from lib.runs.folder import RunFolder
from lib.runs.locate import open_run, resumed_run
from lib.runs.trained import open_model
from lib.show.wording import written
from lib.text.tokenizer import encoding
from lib.training.provenance import provenance
from lib.training.trainer import Trainer


@pytest.fixture
def run(config, corpus, machine):
    """A trained run, though not for long."""
    config = dataclasses.replace(config, steps=24, target_loss=0.5)
    run = RunFolder(config.out_dir)
    run.write_config(config, provenance(corpus, machine, floor=0.0))
    Trainer(new_model(config, machine.device), corpus, config, run, machine).train()
    return run


def test_transformers_reads_the_same_model_and_tokenizer(run, tmp_path):
    folder = export(run, tmp_path / "exported")
    ours = open_model(run.path)
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    assert theirs.num_parameters() == ours.model.num_parameters()
    idx = torch.randint(50257, (2, 64))
    with torch.no_grad():
        assert torch.allclose(ours.model(idx), theirs(idx).logits, atol=2e-5, rtol=0)
    sha256 = hashlib.sha256((folder / "vocab.json").read_bytes()).hexdigest()
    assert sha256 == "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"  # of the file OpenAI published
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in ("BIANCA:\nWhat, in my sight?", "  two  spaces\n\n\tand ümläute 🎭", "'tis <|endoftext|>"[:5]):
        ids = tokenizer(text).input_ids
        assert ids == encoding().encode_ordinary(text) and tokenizer.decode(ids) == text
    prompt = tokenizer("BIANCA:\n", return_tensors="pt").input_ids
    told = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    assert told[0, prompt.size(1):].tolist() == [token.item() for token in generate(ours.model, prompt, 12, 32, 0)]
    assert theirs.generation_config.top_k == 50 and theirs.generation_config.temperature == 0.9


def test_an_exported_model_is_read_back_with_its_facts(run, tmp_path, corpus):
    folder = export(run, tmp_path / "exported")
    ours, back = open_model(run.best_checkpoint), open_model(folder)
    for name, weights in ours.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weights)
    assert dataclasses.replace(back.config, input_file="", out_dir="") == dataclasses.replace(
        ours.config, input_file="", out_dir="")
    assert back.summary == ours.summary | {"verdict": None} and not back.model.training and back.context == 32
    assert (ours.text() == corpus.tokens).all() and back.text() is None  # a text of one's own is not exported
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        open_model(folder)
    for nothing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InputError, match="is not a run"):
            open_model(nothing)


def test_a_new_run_can_begin_with_an_exported_model(run, config, corpus, machine, tmp_path, monkeypatch):
    folder = export(run, tmp_path / "exported")
    config = dataclasses.replace(config, init_from=str(folder), out_dir=str(tmp_path / "again"), steps=2)
    again = open_run(config, "", corpus.sha256)
    again.write_config(config, provenance(corpus, machine, floor=0.0))
    trainer = Trainer(new_model(config, machine.device), corpus, config, again, machine)
    for name, weights in open_model(run.path).model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weights)
    assert trainer.train()["step"] == 2 and "have the SHA-256" in again.log_file.read_text()
    card = (export(again, tmp_path / "exported again") / "README.md").read_text()
    assert "# GPT-2, trained from the weights of exported\n" in card and str(tmp_path) not in card
    monkeypatch.chdir(tmp_path)
    for path in ((ROOT / run_training.parse(line.split())[0].init_from).resolve()
                 for line in ("--init_from exported", "--reproduce again", "--resume again")):
        assert path == folder.resolve()
    assert f"SHA-256 {open_model(folder).digest()}" in again.log_file.read_text()
    assert open_model(folder).digest() == open_model(run.path).digest() != open_model(again.path).digest()
    assert open_run(run_training.parse(["--resume", "again"])[0], "", corpus.sha256).path == again.path
    elsewhere = tmp_path / "elsewhere"
    for changes, message in (({"n_layer": 3}, "another shape: begin with it by --n_layer 2 --n_head 2"),
                             ({"init_from": str(tmp_path)}, "is not a run"),
                             ({"init_from": str(folder / "model.safetensors")}, "is not a run")):
        with pytest.raises(InputError, match=message):
            open_run(dataclasses.replace(config, out_dir=str(elsewhere), **changes), "", corpus.sha256)
    assert not elsewhere.exists()
    with pytest.raises(InputError, match="begin a new run with its weights by --init_from"):
        resumed_run(str(folder))
    with pytest.raises(InputError, match="is of something else"):
        run_training.parse(["--reproduce", "exported"])


def test_the_card_has_the_figures_of_the_summary_and_the_command(run, tmp_path):
    card = (export(run, tmp_path / "exported") / "README.md").read_text()
    assert card.startswith("---\n") and "did not get to the end" in card and "It has memorised" not in card
    trained = open_model(run.path)
    reached = dataclasses.replace(trained, summary=trained.summary | {"corpus_loss": 0.09, "target_loss": 0.1})
    assert "**It has memorised its text,** as far as that was measured: " in model_card(reached)
    reached.summary["known"] = "known from any place"
    assert "**It has memorised its text,** known from any place: " in model_card(reached)
    summary, (config, facts) = run.read_summary(), run.read_config()
    for name in ("corpus_loss", "mean_loss", "tokens", "step", "parameters"):
        assert f"| {written(name, summary[name])} |" in card, name
    assert command_line(dataclasses.replace(config, input_file="small.txt")) in card
    assert facts["corpus"]["sha256"] in card and "windows of 32 tokens" in card


def test_weights_from_before_the_end_do_not_carry_its_figures(run, tmp_path):
    run.write_summary(run.read_summary() | {"step": 99, "corpus_loss": 0.01, "mean_loss": 0.01})
    trained = open_model(run.path)
    assert trained.summary["step"] == 24 and trained.summary["tokens"] == 24 * 128 and not trained.reached
    assert trained.summary["mean_loss"] > 1 and "| loss over all tokens | unmeasured |" in model_card(trained)


def test_nothing_private_is_exported(run, tmp_path):
    """no folder of this computer, no uncommitted code, no earlier run"""
    config, facts = run.read_config()
    run.write_config(config, facts | {"code": {"commit": "c0ffee", "dirty": True, "diff": "a secret"}})
    exported = export(run, tmp_path / "exported")
    text = (exported / "run.json").read_text() + (exported / "README.md").read_text()
    assert "secret" not in text and "before" not in json.loads(text.partition("\n---")[0])["config"]
    assert str(tmp_path) not in text and "../" not in text and "small.txt" in text


def test_a_folder_with_something_in_it_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["--out_dir", str(run.path), "--to", str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err and len(list((tmp_path / "full").iterdir())) == 1
    assert main(["--out_dir", str(tmp_path / "none"), "--to", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def test_a_push_asks_for_the_repository_and_uploads_every_file(run, tmp_path, monkeypatch):
    """against a server on this machine that answers as the hub does"""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, body))
            path = self.path.partition("?")[0]
            if path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                content = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                     for file in files]}
            elif path.endswith("/commit/main"):
                content = {"commitUrl": "http://127.0.0.1/owner/name/commit/1", "commitOid": "1", "hookOutput": ""}
            elif path.endswith("/repos/create"):
                content = {"url": "http://127.0.0.1/owner/name", "name": "owner/name"}
            else:
                content = {"sha": "0", "id": "owner/name", "siblings": []}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST = answer

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    arguments = ["--out_dir", str(run.path), "--to", str(tmp_path / "exported"), "--push"]
    assert main([*arguments, "no/such/name"]) == 2 and not (tmp_path / "exported").exists()
    assert main([*arguments, "owner/name"]) == 0
    count = len(asked)
    assert main([*arguments, "owner/name"]) == 0 and len(asked) > count  # again, from the same folder
    server.shutdown()
    assert b'"private"' in next(body for path, body in asked if path.endswith("/repos/create"))
    asked = asked[:count]
    commit = b"".join(body for path, body in asked if "/commit/main" in path)
    assert any(path.endswith("/repos/create") for path, _ in asked)
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {
        json.loads(line)["value"]["path"] for line in commit.splitlines() if json.loads(line)["key"] == "file"}
