"""Work shared by processes: in order, and with a message when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from itertools import count

import pytest

from samtune.errors import DataError, SamtuneError
from samtune.utils.workers import mapped


def double(number: int) -> int:
    return 2 * number


def die_elsewhere(number: int, home: int) -> int:
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_elsewhere(number: int, home: int) -> int:
    if os.getpid() != home:
        raise DataError.of(expected="nothing", found=f"number {number}")
    return number


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [0, 3, 20_000])
def test_results_come_in_order(processes, number):
    assert list(mapped(double, iter(range(number)), processes)) == [2 * item for item in range(number)]


def test_a_killed_worker_is_a_message():
    with pytest.raises(SamtuneError, match="ended from outside"):
        for _ in mapped(partial(die_elsewhere, home=os.getpid()), count(), 2):
            pass


def test_an_error_in_a_worker_arrives_here():
    with pytest.raises(DataError, match="number"):
        for _ in mapped(partial(fail_elsewhere, home=os.getpid()), count(), 2):
            pass


def test_few_items_start_no_process_and_many_do_though_few_were_expected():
    work = partial(fail_elsewhere, home=os.getpid())
    assert list(mapped(work, iter(range(20)), 2)) == list(range(20))
    with pytest.raises(DataError):
        for _ in mapped(work, count(), 2, expected=20):
            pass


def test_a_script_needs_no_guard_around_its_main_part(tmp_path):
    """What starts at the top of a script is not started again in every process."""
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\n"
        "from samtune.utils.workers import mapped\n"
        "print('once', flush=True)\n"
        "print(sum(mapped(operator.neg, iter(range(100_000)), 2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", str(-sum(range(100_000)))]
    assert done.stderr == ""
