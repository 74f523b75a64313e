"""The page as a visitor has it: it answers, refuses what it should, and keeps to itself."""
import concurrent.futures
import contextlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import gradio as gr
import pytest
from gradio_client import Client

from lib.config import ROOT
from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.publish.export import export
from lib.runs.folder import RunFolder
from lib.runs.trained import open_model
from lib.text.corpus import load_corpus
from lib.training.machine import prepare_machine
from lib.training.provenance import provenance
from lib.training.trainer import Trainer

sys.path.insert(0, str(ROOT / "space"))
import app

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ASKED = []  # addresses that the page's server wanted to reach
DEFAULTS = ("First Citizen:\n", 20, 0.9, 50, 1337)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A model trained for a moment, and large enough for an answer to take some seconds."""
    config = preset_config("notebook", n_layer=6, n_head=6, n_embd=384, max_tokens=1024, steps=2, target_loss=0.5,
                           sample_every=8, out_dir=str(tmp_path_factory.mktemp("runs") / "run"))
    run, machine, corpus = RunFolder(config.out_dir), prepare_machine(config), load_corpus(config)
    run.write_config(config, provenance(corpus, machine, floor=0.0))
    Trainer(new_model(config, machine.device), corpus, config, run, machine).train()
    return run


@pytest.fixture(scope="module")
def playground(run) -> app.Playground:
    return app.Playground(open_model(run.path))


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A proxy to all that is not this machine: it only notes that it was asked."""

    def do_CONNECT(self):
        ASKED.append(self.path)
        self.send_error(403)

    do_GET = do_POST = do_CONNECT

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    """The page, served from a folder as a Space has it: app.py, lib and an exported model, and nothing else."""
    folder = tmp_path_factory.mktemp("space")
    shutil.copytree(ROOT / "space", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    export(run, folder / "model")
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name != "MODEL"} | {
        "GRADIO_SERVER_PORT": str(port), "NO_PROXY": "127.0.0.1,localhost",
        "HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_port}", "HTTP_PROXY": f"http://127.0.0.1:{proxy.server_port}"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).read()
                break
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.2)
        yield address
        assert process.poll() is None, process.stdout.read()
    finally:
        process.kill()
        proxy.shutdown()
    assert ASKED == []


@pytest.mark.parametrize(("place", "value", "message"), [
    (0, "", "prompt is empty"), (0, None, "prompt is empty"), (0, 7, "prompt is empty"),
    (0, "x" * 1_000_000, "shorten it"), (0, "word " * 300, "shorten the prompt"),
    (1, 0, "from 1 to 200"), (1, 201, "from 1 to 200"),
    (1, 1.5, "whole number"), (1, "9", "whole number"), (1, None, "whole number"), (1, True, "whole number"),
    (2, 0, "from 0.1 to 1.5"), (2, float("nan"), "from 0.1 to 1.5"), (2, float("inf"), "from 0.1 to 1.5"),
    (3, -1, "from 0 to 200"), (3, 201, "from 0 to 200"), (4, -1, "Seed"), (4, 2 ** 40, "Seed"), (4, [1], "Seed"),
])
def test_bad_arguments_are_refused_at_once_by_the_function_itself(playground, place, value, message):
    arguments, begin = [*DEFAULTS], time.perf_counter()
    arguments[place] = value
    with pytest.raises(gr.Error, match=message):
        list(playground.answer(*arguments))
    assert time.perf_counter() - begin < 1


def test_an_answer_grows_token_by_token_and_ends_with_quotations_marked(playground):
    answers = list(playground.answer(*DEFAULTS))
    assert len(answers) == 21 and "20 of 20 tokens" in answers[-1][1] and "word for word" in answers[-1][1]
    lengths = [len(text) for text, _ in answers[:-1]]
    assert lengths == sorted(lengths) and answers[0][0].startswith("<pre>First Citizen:\n")
    assert answers[-1][0] == list(playground.answer(*DEFAULTS))[-1][0]  # the same seed
    assert answers[-1][0] != list(playground.answer(*DEFAULTS[:4], 7))[-1][0]


def test_what_a_model_says_is_inert(playground):
    for answer, _ in playground.answer("<script>alert(1)</script><img src=x onerror=alert(1)>", 5, 0.9, 50, 1):
        assert "<script" not in answer and "<img" not in answer and "&lt;script&gt;" in answer


def test_an_answer_that_takes_too_long_ends(playground, monkeypatch):
    monkeypatch.setattr(app, "LONGEST_SEC", 0.0)
    answers = list(playground.answer(*DEFAULTS))
    assert len(answers) == 2 and "ended after" in answers[-1][1]


def test_the_page_answers_over_the_network_and_serves_no_files(address):
    page = urllib.request.urlopen(address)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    client = Client(address, verbose=False)
    text, told = client.predict(*DEFAULTS, api_name="/generate")
    assert text.startswith("<pre>") and "20 of 20 tokens" in told
    with pytest.raises(Exception, match=r"maximum value 200|from 1 to 200"):
        client.predict("First Citizen:\n", 5000, 0.9, 50, 1, api_name="/generate")
    for path in ("app.py", "/etc/passwd", "model/run.json", "lib/config.py"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)


def test_many_at_once_are_answered_or_told_that_it_is_busy(address):
    def ask(i: int) -> str:
        try:
            return client.predict("First Citizen:\n", 40, 0.9, 50, i, api_name="/generate")[1]
        except Exception as error:
            return f"refused: {error}"

    client = Client(address, verbose=False)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert all("40 of 40 tokens" in answer or "full" in answer for answer in answers), answers
    assert sum("40 of 40" in answer for answer in answers) >= app.WAITING
    assert "40 of 40" in ask(1)  # alive and right afterwards


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_visitor_generates_changes_the_controls_and_stops(address):
    from playwright.sync_api import expect, sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (1200, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            answered = []
            page.on("response", lambda response, seen=answered: seen.append(response.url))
            page.goto(address)
            page.get_by_role("button", name="Generate").click()
            expect(page.get_by_label("How", exact=True)).to_have_value(re.compile("80 of 80 tokens.*word for word"),
                                                                       timeout=30_000)
            expect(page.locator("#answer pre")).to_contain_text("First Citizen:")
            before = page.locator("#answer pre").inner_text()
            page.get_by_label("number input for Max new tokens").fill("10")
            page.get_by_label("number input for Temperature").fill("0.1")
            page.get_by_label("number input for Top-K (0 turns it off)").fill("0")
            page.get_by_label("Prompt", exact=True).fill("First Citizen:\n")
            page.get_by_role("button", name="Generate").click()
            expect(page.get_by_label("How", exact=True)).to_have_value(re.compile("10 of 10 tokens.*word for word"))
            assert page.locator("#answer pre").inner_text() != before
            page.get_by_label("Prompt", exact=True).fill("")
            page.get_by_role("button", name="Generate").click()
            expect(page.get_by_text("The prompt is empty")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.get_by_label("Prompt", exact=True).fill("First Citizen:\n")
            page.get_by_label("number input for Max new tokens").fill("200")
            page.get_by_role("button", name="Generate").click()
            expect(page.get_by_label("How", exact=True)).to_have_value(re.compile("of 200 tokens"))
            page.get_by_role("button", name="Stop").click()
            page.wait_for_timeout(3000)
            assert "word for word" not in page.get_by_label("How", exact=True).input_value()
            assert {urllib.parse.urlsplit(url).netloc for url in answered if url.startswith("http")} == {
                urllib.parse.urlsplit(address).netloc}
            page.close()
        browser.close()


def test_what_a_space_installs_is_what_was_tested():
    """versions in space/ are those of pyproject.toml"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {*project["dependencies"], *project["optional-dependencies"]["space"]}
    assert set((ROOT / "space" / "requirements.txt").read_text().split()) <= pinned
    version = re.search(r"^sdk_version: (.*)$", (ROOT / "space" / "README.md").read_text(), re.MULTILINE)[1]
    assert f"gradio=={version}" in pinned


def test_without_a_model_it_says_what_to_name(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "space" / "app.py"], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"MODEL": str(tmp_path)})
    assert done.returncode == 2 and "MODEL=runs/NAME" in done.stderr and "Traceback" not in done.stderr
