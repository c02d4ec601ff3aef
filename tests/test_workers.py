"""Work shared by processes: in order, and with a message when one of them is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from samtune.data.workers import mapped
from samtune.errors import SamtuneError


def double(number: int) -> int:
    return 2 * number


def die_in_a_worker(number: int) -> int:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [0, 3, 200])
def test_results_come_in_order(processes, count):
    assert list(mapped(double, iter(range(count)), processes)) == [2 * number for number in range(count)]


def test_a_killed_worker_is_a_message():
    with pytest.raises(SamtuneError, match="ended from outside"):
        for _ in mapped(die_in_a_worker, iter(range(1_000_000)), 2):
            pass
