"""What this computer offers to a run: device, arithmetic, threads, memory."""
import ctypes
import os
import platform
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from lib.config import InputError, RunConfig
from lib.runs.locate import recorded_amp, run_of

if TYPE_CHECKING:
    from lib.training.group import Group

MPS_IS_UNTRIED = ("nobody has measured this project on an Apple GPU, and torch 2.13 computes wrong gradients on M1 and "
                  "M2 (pytorch issue 193487): compare the first losses with those of --device cpu")


@dataclass(frozen=True)
class Machine:
    """Where a run computes, and in which precision: `amp` is None for plain float32."""

    device: torch.device
    amp: torch.dtype | None
    notice: str = ""  # what could not be had as asked for
    group: "Group | None" = None  # the processes that train together, where there are several

    @property
    def precision(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.amp]

    @property
    def is_asynchronous(self) -> bool:
        """Whether Python goes on while the device computes: there, to read a number is to wait for all before it."""
        return self.device.type != "cpu"

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of main memory on the device; a CUDA device fetches it behind what it is computing."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def rng_state(self) -> torch.Tensor | None:
        """The state of the device's own random generator, which dropout draws from; None for a processor's, which is
        torch's."""
        return torch.get_device_module(self.device).get_rng_state() if self.device.type != "cpu" else None

    def set_rng_state(self, state: torch.Tensor | None) -> None:
        """Go on with the random numbers of a device like this; those of another one are of no use here."""
        if state is not None and self.device.type != "cpu" and state.shape == self.rng_state().shape:
            torch.get_device_module(self.device).set_rng_state(state)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None)

    def name(self) -> str:
        """The device in words, without anything that names the computer's owner."""
        several = f", {self.group.size} processes" if self.group else ""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device) + several
        if self.device.type == "mps":
            return f"{_processor()}, its GPU"
        threads = torch.get_num_threads()
        return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}{several}"


def _processor() -> str:
    """The processor's name as its maker gives it, where the system tells."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            names = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    elif sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        names = done.stdout.split("\n")[:1]
    else:
        names = []
    return (names and names[0]) or platform.processor() or platform.machine()


def prepare_machine(config: RunConfig) -> Machine:
    """Choose device and precision, and set this process up for training. Call it before the first large tensor.

    A run that is gone on with keeps the precision it had, unless another one is named. Raises InputError where a device
    was asked for that is not there.
    """
    _keep_freed_memory()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for before its first product
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # asking imports a compiler, in 2 s
        torch.use_deterministic_algorithms(config.deterministic)
    torch.set_float32_matmul_precision("highest")  # what is called fp32 is that, also where TF32 or less is quicker
    device = choose_device(config.device, config.nproc_per_node)
    asked = recorded_amp(run_of(config.resume)) if config.resume and config.amp == "auto" else config.amp
    amp, notice = _precision(asked, device, config.shard)
    if device == "mps":
        notice = "; ".join(filter(None, (MPS_IS_UNTRIED, notice)))
    return Machine(torch.device(device), amp, notice)


def choose_device(asked: str, processes: int = 1) -> str:
    """The device asked for; for `auto` a CUDA device where there is one, and else the processor: nobody has measured an
    Apple GPU. InputError where it is not there, or not once for each of several processes."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = ("cuda" if available["cuda"] else "cpu") if asked == "auto" else asked
    if not available[device]:
        raise InputError(f"torch {torch.__version__} finds no device {device!r} here: use --device auto")
    gpus = {"cuda": torch.cuda.device_count(), "mps": 1}
    if processes > 1 and processes > gpus.get(device, processes):
        raise InputError(f"{processes} processes need a GPU each, and torch finds {gpus[device]} here: lower "
                         "--nproc_per_node, or use --device cpu")
    return device


def _precision(asked: str, device: str, shard: bool = False) -> tuple[torch.dtype | None, str]:
    """The autocast type for a device, and what there is to say of it: `auto` takes what the hardware is made for, but
    no fp16 where processes that share the weights had to agree on its scale; a name what it says wherever torch can
    compute in it."""
    made_for_bf16 = _has_bf16(device)
    if asked == "auto":
        asked = "bf16" if made_for_bf16 else "fp16" if device == "cuda" and not shard else "off"
    if asked == "off":
        return None, ""
    if asked == "fp16" and shard:  # in which a run may have begun without
        raise InputError("--shard is not built for fp16, in which this run computes: name --amp bf16 or off")
    if device == "mps" or (device == "cpu" and asked == "fp16"):
        return None, f"--amp {asked} is not for this {device}: computing in fp32"
    if asked == "bf16" and not made_for_bf16:
        return torch.bfloat16, (f"this {device} has no instructions for bf16 and computes it many times slower than "
                                "fp32: stop, and go on by --resume with --amp off, unless that is what you want")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[asked], ""


def _has_bf16(device: str) -> bool:
    """Whether matrix products in bfloat16 have instructions of their own: in a processor AVX512-BF16 or AMX, which
    oneDNN may use."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
            and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def memory_needed(config: RunConfig, parameters: int, machine: Machine) -> int:
    """Bytes that training takes on its device besides the weights, roughly: gradients, moments, what backward
    needs of a micro-batch; of each process there, and in main memory the copy that the first writes a checkpoint from.
    """
    number = 4 if machine.amp is None else 2
    block = 16 * config.n_embd * number  # kept of a token: two norms, query, key, value, head outputs, 8 C of the MLP
    logits = 50257 * (number + 4 + 4)  # of a token: themselves, their logarithms of probability and their gradients
    learned, moments = (config.memory_parameters, 0) if config.optimizer == "sgd" else (parameters, 2)
    copy = 0 if machine.device.type == "cuda" else 4 * (parameters + moments * learned)
    kept = 4 * (1 + moments) * learned
    if config.shard:  # a part of that, and all weights where they are gathered
        kept = kept // config.processes + 4 * parameters
    needed = kept + config.windows_at_once * config.seq_len * (config.n_layer * block + logits)
    return copy + needed * (machine.group.size_here if machine.group and machine.device.type == "cpu" else 1)


def memory_notice(config: RunConfig, parameters: int, machine: Machine) -> str:
    """What training needs of the memory that is free, in words, and what would need less where that is more."""
    needed, free = memory_needed(config, parameters, machine), memory_free(machine.device)
    told = f"about {needed / 1e9:.1f} GB of memory are needed and {free / 1e9:.1f} GB free"
    if needed <= free:
        return told
    if config.batch_size == 1:
        return f"{told}: if that fails, a lower --seq_len needs less, and is another recipe"
    return (f"{told}: if that fails, a lower --batch_size with --grad_accum raised by the same factor needs less for "
            "the same steps")


def memory_free(device: torch.device) -> int:
    """Bytes that a device has left for a run."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of returning them to the kernel.

    Every step frees and asks again for hundreds of megabytes of activations and gradients; faulting those pages in
    anew costs a fifth of a step on two cores. Elsewhere than on glibc this does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold, most = -1, -3, 2 ** 31 - 1
        if libc.mallopt(m_mmap_threshold, most):  # an old glibc refuses; the second alone would make things worse
            libc.mallopt(m_trim_threshold, most)
