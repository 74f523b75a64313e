#!/usr/bin/env bash
# What an NVIDIA GPU makes of this project: the tests that need one, the training step beside transformers', and the
# preset `full` to its target. Needs no network and, by its limits, less than 8 minutes; leaves one record.
#
#   benchmarks/gpu.sh [folder of the record, runs/ by default]
#
# PYTHON names an interpreter whose torch can use the GPU. What it lacks of the project's packages is installed beside
# it from ./wheels, where another machine has put them: pip download --no-deps -d wheels PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:-runs}")
python=${PYTHON:-python3}
record=$folder/gpu-$(date -u +%Y%m%d-%H%M%S).md
export PYTHONPATH=$PWD

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || {
    echo "gpu.sh: the torch of $python finds no CUDA device: name another interpreter by PYTHON" >&2
    exit 2
}
if [ -d wheels ]; then
    "$python" -m pip install --quiet --no-index --no-deps --target runs/.packages wheels/*.whl
    export PYTHONPATH=$PWD:$PWD/runs/.packages
fi
"$python" -c 'import pytest, transformers, lib.training.trainer, lib.text.default_text' || {
    echo "gpu.sh: this package is missing: put its wheel into ./wheels" >&2
    exit 2
}

mkdir -p "$folder"
exec > >(tee "$record") 2>&1
begin=$SECONDS failed=0

# part TITLE SECONDS COMMAND...: its output under a title; what fails or takes longer is said, and the rest goes on
part() {
    local title=$1 limit=$2 status=0
    shift 2
    printf '\n## %s\n\n```text\n' "$title"
    timeout -k 5 "$limit" "$@" || status=$?
    printf '```\n'
    if [ "$status" -ne 0 ]; then
        failed=1
        printf '\n**Failed: exit code %s**, 124 is more than %s s.\n' "$status" "$limit"
    fi
}

echo "# A GPU, $(date -u +%Y-%m-%d)"
part "The machine" 15 "$python" -c '
import platform, subprocess, torch
from lib.runs.code import git_state
code = git_state()
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda, "Python", platform.python_version())
print("commit", code["commit"], "with changes" if code["dirty"] else "")
print(subprocess.run(["nvidia-smi", "--query-gpu=driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv"],
                     capture_output=True, text=True).stdout, end="")'
part "Tests" 100 "$python" -m pytest -q -s -n 0 -p no:cacheprovider -o addopts=-ra tests/gpu
part "A step of 4 x 128 tokens" 110 "$python" benchmarks/step.py
part "A step of 16 x 256 tokens" 110 "$python" benchmarks/step.py --batch_size 16 --seq_len 256
part "The preset full, to its target" 120 "$python" -c '
import sys
from lib.model.gpt import new_model
from lib.presets import preset_config
from lib.runs.folder import RunFolder
from lib.text.corpus import load_corpus
from lib.training.machine import prepare_machine
from lib.training.trainer import Trainer
config = preset_config("full", max_hours=0.025, out_dir=sys.argv[1])
machine = prepare_machine(config)
run = RunFolder(config.out_dir)
summary = Trainer(new_model(config, machine.device), load_corpus(config), config, run, machine).train()
tokens, seconds, elapsed = (summary[name] for name in ("tokens", "step_sec", "elapsed_sec"))
print(f"{tokens / seconds:,.0f} tokens/s in steps, which were {seconds:.0f} s of {elapsed:.0f}")
sys.exit(summary["state"] != "reached")' "${record%.md}-full"
printf '\n%s s in all.\n' "$((SECONDS - begin))"
exit "$failed"
