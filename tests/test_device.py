"""Which device a process gets: its own GPU under a launcher, Apple's GPU where there is no other."""

from __future__ import annotations

import pytest
import torch

from samtune.errors import ConfigError
from samtune.runtime.device import choose_device


@pytest.fixture
def gpus(monkeypatch):
    """Makes PyTorch say that there are so many CUDA GPUs, and Apple's GPU or not."""

    def there_are(count: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return there_are


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_every_process_of_a_launcher_gets_its_own_gpu(gpus, monkeypatch, wanted):
    gpus(4)
    assert choose_device(wanted) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device(wanted) == torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(ConfigError, match="5 or more"):
        choose_device(wanted)


def test_without_a_gpu_auto_is_the_cpu_and_asking_for_one_is_a_mistake(gpus):
    gpus(0)
    assert choose_device("auto") == torch.device("cpu")
    for wanted in ("cuda", "mps"):
        with pytest.raises(ConfigError, match=f"--device {wanted}"):
            choose_device(wanted)


def test_apples_gpu_is_taken_only_where_it_has_the_operations(gpus):
    """Here PyTorch is made to report Apple's GPU, which cannot compute: `auto` notices and takes the CPU."""
    gpus(0, mps=True)
    assert choose_device("mps") == torch.device("mps")
    assert choose_device("auto") == torch.device("cpu")
