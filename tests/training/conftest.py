"""What is said of training is said of it in every precision a processor computes in."""
import pytest
import torch

from lib.training.machine import Machine


@pytest.fixture(params=[None, torch.bfloat16], ids=["fp32", "bf16"])
def machine(request) -> Machine:
    """A processor that computes in float32, and one that computes in bfloat16, emulated where this one cannot."""
    return Machine(torch.device("cpu"), request.param)
