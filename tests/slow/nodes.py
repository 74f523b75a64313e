"""Two machines train one run: here two network namespaces of one machine, with a cable between them. The run ends with
the verdict of two processes on one machine; when the cable is cut, it ends by itself, and --resume goes on.

    python tests/slow/nodes.py FOLDER first | second | cut          as root, under Linux; the last takes half an hour

FOLDER, which both machines see, keeps the run of two processes on one machine. The process that leads is where the
notebook is, on the `first` machine, or on the `second`: torch numbers them in the order of their machines' names.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.config import ROOT
from lib.runs.folder import RunFolder
from runs import differences, printed, start, wait_for

NAMES, PORT = ("lab-one", "lab-two"), 29500
RECIPE = ["--preset", "tiny", "--steps", "150", "--target_loss", "0.1", "--optimizer", "muon", "--amp", "off",
          "--log_every", "1", "--save_every", "2", "--sample_every", "20"]
OTHER = """for attempt in 1 2 3 4; do
    {python} -m torch.distributed.run --nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint {one}:{port} \
        --local_addr {two} -m lib.training.worker {run} && break
done"""


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def lay_cable(hosts: tuple[str, str]) -> None:
    """Make the two namespaces, each with an end of a cable."""
    for name in NAMES:
        sh(f"ip netns add {name} && ip -n {name} link set lo up")
    sh(f"ip link add {NAMES[0]} type veth peer name {NAMES[1]}")
    for name, host in zip(NAMES, hosts, strict=True):
        sh(f"ip link set {name} netns {name} && ip -n {name} addr add {host}/24 dev {name}")
        sh(f"ip -n {name} link set {name} up")


def inside(name: str) -> list[str]:
    return ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={name}"]


def begin(run: RunFolder, hosts: tuple[str, str]) -> tuple[subprocess.Popen, subprocess.Popen]:
    """Start a run on the first machine and its processes on the second, as docs/cluster.md says."""
    output = tempfile.NamedTemporaryFile("w+", suffix=".txt")  # noqa: SIM115 (lives as long as the process)
    one = subprocess.Popen([*inside(NAMES[0]), sys.executable, str(ROOT / "run_training.py"), *RECIPE, "--nnodes", "2",
                            "--rdzv_endpoint", f"{hosts[0]}:{PORT}", "--out_dir", str(run.path)],
                           stdout=output, stderr=subprocess.STDOUT)
    one.output = output
    wait_for(one, "2_model: completed")
    command = OTHER.format(python=sys.executable, one=hosts[0], two=hosts[1], port=PORT, run=run.path)
    two = subprocess.Popen([*inside(NAMES[1]), "bash", "-c", command], cwd=ROOT, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    wait_for(one, "tokens a step")
    return one, two


def main(place: Path, what: str) -> int:
    os.environ["OMP_NUM_THREADS"] = "1"
    whole, run = place / "whole", RunFolder(place / f"two-{what}")
    if not whole.exists() and start(*RECIPE, "--nproc_per_node", "2", "--out_dir", str(whole)).wait() != 3:
        raise SystemExit("the run of one machine did not end at its limit")
    hosts = ("10.77.0.2", "10.77.0.1") if what == "second" else ("10.77.0.1", "10.77.0.2")
    lay_cable(hosts)
    try:
        one, two = begin(run, hosts)
        since = time.monotonic()
        if what == "cut":
            time.sleep(2)
            sh(f"ip -n {NAMES[1]} link set {NAMES[1]} down")
            print(f"cut after step {run.read_summary()['step']}", flush=True)
        running = {"first": one, "second": two}
        while running:
            for name in [name for name, process in running.items() if process.poll() is not None]:
                print(f"the {name} machine ended after {time.monotonic() - since:.0f} s with exit code "
                      f"{running.pop(name).returncode}: {run.read_summary()['verdict']}", flush=True)
            time.sleep(1)
        code = one.wait()
        if what == "cut":
            code = start("--resume", str(run.path), "--nnodes", "1", "--nproc_per_node", "2").wait()
        found = differences(run.path, whole)
        print(f"exit code {code}, gone on with from step {run.read_summary()['restarts']}, differs from the run of one "
              f"machine in {found}")
        if found or code != 3:
            print(printed(one))
        return int(bool(found) or code != 3)
    finally:
        for name in NAMES:
            sh(f"ip netns del {name}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2]))
