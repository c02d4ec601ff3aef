"""`make bench`: the arithmetic of its comparisons on given numbers, and the way contestants are given orders."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import REPO

sys.path.insert(0, str(REPO / "benchmarks"))

from contest import Contestant, flops, memory_peak
from peers import Measured, Plan, evaluation_time, report, verdicts

PLAN = Plan(rounds=2, images=4, turns=5, evaluated=2, threads=0)


@pytest.fixture
def found():
    """Round numbers: the script's step takes 2 s, ours 50 ms, encoding an image 1 s."""
    rates = [{"dtype": d, "threads": t, "gflops": g} for d, t, g in (("fp32", 1, 50), ("fp32", 2, 100), ("bf16", 1, 1))]
    rates.append({"dtype": "bf16", "threads": 2, "gflops": 2})
    answer = {"embed": 2.0, "ask": 1.6, "objects": 16}
    return Measured(
        machine={"name": "a processor", "threads": 2, "cores": 2, "load": 0.1, "rates": rates},
        encode=[9.0, 1.0, 1.0, 1.0],
        look=[0.01, 0.01],
        steps={
            "1 x 1": {"script": [2.0, 2.0, 8.0], "recipe": [2.4], "cached": [0.1], "samtune": [0.05] * 10},
            "1 x 8": {"script": [3.0], "recipe": [3.2], "cached": [0.8], "samtune": [0.2]},
            "4 x 4": {"recipe": [11.0], "cached": [1.6], "samtune": [0.4]},
        },
        gflop={
            "1 x 1": {"script": 300.0, "recipe": 300.0, "cached": 10.0, "samtune": 5.0},
            "1 x 8": {"script": 380.0, "recipe": 380.0, "cached": 80.0, "samtune": 20.0},
            "4 x 4": {"recipe": 1300.0, "cached": 160.0, "samtune": 20.0},
        },
        evaluation={
            "official predictor": [answer, answer],
            "samtune, encoding": [answer | {"ask": 0.8}],
            "samtune, cached": [answer | {"embed": 0.0, "ask": 0.8}],
        },
        memory={
            "cached": {"before": 400 << 20, "peak": 1400 << 20},
            "samtune": {"before": 600 << 20, "peak": 1100 << 20},
        },
    )


def test_ratios_follow_from_medians(found):
    ratios = [(one.ratio, one.target) for one in verdicts(found)]
    assert ratios == [
        (pytest.approx(6000 / (200 * 1 + 3000 * 0.05)), "at least 15"),
        (pytest.approx(6000 / (200 * 0.01 + 3000 * 0.05)), "at least 40"),
        (pytest.approx(2.0), ""),
        (pytest.approx(15.0), "at least 12"),
        (pytest.approx(4.0), ""),
        (pytest.approx(4.0), "at least 3"),
        (pytest.approx(27.5), ""),
        (pytest.approx(3.6 / 0.8), ""),
        (pytest.approx(2.8 / 0.8), ""),
        (pytest.approx(0.4 / (20 / 100)), "at most 2.5"),
        (pytest.approx(0.5), "at most 0.75"),
    ]


def test_each_arithmetic_is_held_to_its_own_rate(found):
    found.precision = "bf16"
    found.encode_fp32 = [9.0, 2.0, 2.0]
    found.steps["4 x 4"]["samtune, fp32"] = [0.6]
    found.gflop["4 x 4"]["samtune, fp32"] = 30.0
    bounds = {one.what: one.ratio for one in verdicts(found) if "bound" in one.what}
    assert bounds == {
        "4 x 4 step over the compute bound (bf16, 2 threads)": pytest.approx(0.4 / (20 / 2)),
        "4 x 4 step over the compute bound (fp32, 2 threads)": pytest.approx(0.6 / (30 / 100)),
    }
    said = "\n".join(report(found, PLAN))
    assert "peers in fp32, samtune in bf16" in said
    assert "encoding it in fp32 2 s" in said


def test_a_gpu_is_held_to_its_own_rate(found):
    rates = [{"dtype": "fp32", "threads": 0, "gflops": 50}, {"dtype": "bf16", "threads": 0, "gflops": 400}]
    found.machine = {"name": "a GPU", "device": "cuda", "threads": 2, "cores": 2, "load": 0.1, "rates": rates}
    compared = next(one for one in verdicts(found) if "compute bound (bf16)" in one.what)
    assert compared.ratio == pytest.approx(0.4 / (20 / 400))
    assert "400 (bf16)" in "\n".join(report(found, PLAN))


def test_an_evaluation_is_extrapolated_by_images():
    answers = [{"embed": 1.0, "ask": 0.5, "objects": 10}, {"embed": 3.0, "ask": 1.5, "objects": 30}]
    assert evaluation_time(answers) == pytest.approx(10_000 / 20 * (2.0 + 1.0))


def test_the_report_says_what_is_extrapolated_and_how_memory_is_measured(found):
    said = "\n".join(report(found, PLAN))
    for expected in (
        "50 (fp32, 1 thread); 100 (fp32, 2 threads)",
        "extrapolated from 4 images really encoded and 100 real steps",
        "extrapolated from 2 images",
        "high-water mark",
        "500 MiB",
        "cached: 400 MiB before, 1400 MiB at the peak",
    ):
        assert expected in said
    row = next(line for line in said.splitlines() if line.startswith("4 x 4") and "samtune" in line)
    assert row.split()[-7:] == ["ms", "25", "ms", "20.0", "2.00", "x", "1"]


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "contestant.py"
    file.write_text(
        f"import sys; sys.path.insert(0, {str(REPO / 'benchmarks')!r})\n"
        "from contest import serve\n"
        "def double(number):\n"
        "    print('a word of a library')\n"
        "    return 2 * number\n"
        "serve({'double': double, 'fail': lambda: 1 / 0})\n"
    )
    return file


def test_a_contestant_carries_out_orders(script, tmp_path):
    with Contestant(str(script), log=tmp_path / "log") as one:
        assert [one.ask("double", number=number) for number in (1, 21)] == [2, 42]
    assert (tmp_path / "log").read_text() == "a word of a library\n" * 2


def test_a_contestant_that_fails_is_reported_with_what_it_said(script, tmp_path):
    with Contestant(str(script), log=tmp_path / "log") as one, pytest.raises(SystemExit, match="ZeroDivisionError"):
        one.ask("fail")


def test_operations_and_memory_are_counted():
    import torch

    a = torch.ones(64, 32)
    assert flops(lambda: a @ a.t()) == 2 * 64 * 32 * 64
    found = memory_peak(lambda: torch.ones(64 << 20, dtype=torch.uint8).sum())
    assert found["peak"] - found["before"] >= 60 << 20
