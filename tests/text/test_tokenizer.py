"""GPT-2's tokens are made of one file here: they are the ones tiktoken makes of the files that it would download."""
import json
import os
import subprocess
import sys

import tiktoken
from tiktoken_ext import openai_public

from lib.config import ROOT
from lib.text.tokenizer import encoding, merges, vocabulary


def test_tiktoken_takes_both_files_for_the_ones_it_would_download(tmp_path, monkeypatch):
    """it compares their SHA-256 with those it knows, and makes of them the encoding that is used here"""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    files = {"vocab.bpe": merges(), "encoder.json": json.dumps(vocabulary())}
    monkeypatch.setattr(tiktoken.load, "read_file", lambda address: files[address.rpartition("/")[2]].encode())
    theirs, ours = openai_public.gpt2(), encoding()
    assert ours._mergeable_ranks == theirs["mergeable_ranks"] and ours._special_tokens == theirs["special_tokens"]
    assert ours._pat_str == theirs["pat_str"] and ours.name == theirs["name"]
    assert ours.n_vocab == theirs["explicit_n_vocab"] and ours.eot_token == 50256


def test_the_encoding_needs_no_network(tmp_path):
    code = ("import socket; socket.socket.connect = None\n"
            "from lib.text.tokenizer import encoding; print(encoding().encode_ordinary('Hello, world'))")
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stdout.strip() == "[15496, 11, 995]", done.stderr
