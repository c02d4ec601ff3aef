"""samtune beside its peers: the same work, in the same run, in turns. `make bench` runs it.

    python benchmarks/peers.py --out build/bench/peers.json [--quick] [--rounds 5] [--images 12] [--threads 0]
                               [--device cpu]

SAM 2.1 tiny with random weights, drawn JPEG images of 1024 x 1024 pixels, on the CPU or a GPU. The contestants:

    script    the widely used short training script, on the official `sam2` package (side_sam2.py)
    recipe    transformers, the encoder run in each step (side_transformers.py)
    cached    the same with `image_embeddings=` passed in, kept in memory
    samtune   real runs: `training.loop` with its defaults, the cache on disk, once filled from the images;
              where it chooses bf16 by itself, steps in fp32 beside it (`samtune, fp32`)

In each round every contestant makes a few steps; medians over the rounds count, so that other work on the machine
falls on all alike. Ratios stand beside the targets they were set; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from contest import Contestant
from samtune.benchmark.figures import duration, run_time, seconds
from samtune.utils.text import text_table

STEPS, IMAGES, EVALUATED = 3000, 200, 10_000
"""The run, and the evaluation, that are extrapolated."""
MEMORY_OBJECTS = 16
IN_FP32 = "samtune, fp32"
TARGETS = {
    "first run": (15.0, "at least"),
    "second run": (40.0, "at least"),
    "1 x 8": (12.0, "at least"),
    "4 x 4": (3.0, "at least"),
    "bound": (2.5, "at most"),
    "memory": (0.75, "at most"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: turns of each contestant in each setting.
        images: to draw for training; samtune encodes all of them, and the one for validation.
        turns: turns of ten steps samtune makes in a round with one object a step.
        evaluated: images whose objects are asked for.
        threads: of each contestant; 0 leaves the choice to PyTorch.
        device: `cpu` or `cuda`.
    """

    rounds: int
    images: int
    turns: int
    evaluated: int
    threads: int
    device: str = "cpu"


@dataclass
class Measured:
    """Everything measured, in seconds, 1e9 operations and bytes.

    `precision` is what samtune chose, `fp32` or `bf16`; `encode_fp32` is empty where it chose fp32.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    encode: list[float] = field(default_factory=list)
    encode_fp32: list[float] = field(default_factory=list)
    look: list[float] = field(default_factory=list)
    steps: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    gflop: dict[str, dict[str, float]] = field(default_factory=dict)
    evaluation: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)

    def step(self, setting: str, who: str) -> float:
        """Median seconds of a step."""
        return median(self.steps[setting][who])


class Contest:
    """Runs the contestants over one piece of work.

    Args:
        work: an empty folder.
        log: takes what the contestants print.
        plan: how much.
    """

    def __init__(self, work: Path, log: Path, plan: Plan) -> None:
        self.work, self.log, self.plan = work, log, plan
        self.found = Measured()

    def run(self) -> Measured:
        """Everything, one piece after the other."""
        self._draw()
        before = self._first_setting()
        self._setting("1 x 8", {"script": 1, "recipe": 1, "cached": 2, "samtune": 1})
        self._setting("4 x 4", {"recipe": 1, "cached": 1, "samtune": 1})
        self._evaluate()
        self._memory()
        with self._samtune(1, 1) as ours:
            self.found.machine = _best_rates(before, ours.ask("machine"))
        return self.found

    def _draw(self) -> None:
        """Images, weights, and the embeddings the plain decoder is fed from."""
        say("drawing images and weights")
        with self._contestant("side_samtune.py", "draw", self.plan.images) as artist:
            artist.wait()
        with self._contestant("side_transformers.py", "embed") as encoder:
            encoder.wait()

    def _first_setting(self) -> dict[str, Any]:
        """1 x 1, with samtune's encoding in the same rounds as the script's first steps; returns the machine."""
        with ExitStack() as stack:
            ours = stack.enter_context(self._samtune(1, 1))
            script = stack.enter_context(self._contestant("side_sam2.py", 1))
            _wait_for(ours, script)
            say("the machine's matrix products")
            machine = ours.ask("machine")
            self.found.precision = ours.ask("precision")
            script.ask("steps", count=1)
            script_steps: list[float] = []
            say("encoding")
            while encoded := ours.ask("encode", count=2):
                self.found.encode += encoded
                script_steps += script.ask("steps", count=1)
                say(f"encoding: {len(self.found.encode)} of {self.plan.images + 1}")
        self._setting("1 x 1", {"script": 1, "recipe": 1, "cached": 4, "samtune": self.plan.turns})
        self.found.steps["1 x 1"]["script"] += script_steps
        return machine

    def _setting(self, setting: str, shares: dict[str, int]) -> None:
        """Rounds of one setting; the first steps of each contestant warm up and count operations."""
        images, objects = map(int, setting.split(" x "))
        if self.found.precision != "fp32":
            shares |= {IN_FP32: shares["samtune"]}
        with ExitStack() as stack:
            contestants = {who: stack.enter_context(self._start(who, images, objects)) for who in shares}
            _wait_for(*contestants.values())
            if setting == "1 x 8":
                self.found.look = contestants["samtune"].ask("look")
            if setting == "1 x 1" and IN_FP32 in contestants:
                say("encoding in fp32")
                self.found.encode_fp32 = contestants[IN_FP32].ask("look")
            say(f"{setting}: counting operations")
            self.found.gflop[setting] = {who: one.ask("flops") / 1e9 for who, one in contestants.items()}
            times: dict[str, list[float]] = {who: [] for who in contestants}
            for turn in range(self.plan.rounds):
                say(f"{setting}: round {turn + 1} of {self.plan.rounds}")
                for who, one in contestants.items():
                    share = {"turns" if who.startswith("samtune") else "count": shares[who]}
                    times[who] += one.ask("steps", **share)
        self.found.steps[setting] = times

    def _evaluate(self) -> None:
        """All objects of some images by box: the official predictor, ours as it is, ours from the cache."""
        with self._contestant("side_sam2.py", 1) as official, self._samtune(1, 1) as ours:
            _wait_for(official, ours)
            ask: dict[str, Callable[[int], dict[str, float]]] = {
                "official predictor": lambda number: official.ask("evaluate", number=number),
                "samtune, encoding": lambda number: ours.ask("evaluate", number=number, cached=False),
                "samtune, cached": lambda number: ours.ask("evaluate", number=number, cached=True),
            }
            for one in ask.values():
                one(0)
            self.found.evaluation = {who: [] for who in ask}
            for number in range(self.plan.evaluated):
                say(f"evaluation: image {number + 1} of {self.plan.evaluated}")
                for who, one in ask.items():
                    self.found.evaluation[who].append(one(number))

    def _memory(self) -> None:
        """Peaks of decoder steps with 16 objects, each in a process of its own."""
        say("memory")
        with self._start("cached", 1, MEMORY_OBJECTS) as plain:
            self.found.memory["cached"] = plain.ask("memory", count=3)
        with self._samtune(1, MEMORY_OBJECTS) as ours:
            self.found.memory["samtune"] = ours.ask("memory", turns=1)

    def _start(self, who: str, images: int, objects: int) -> Contestant:
        if who.startswith("samtune"):
            return self._samtune(images, objects, "fp32" if who == IN_FP32 else "auto")
        if who == "script":
            return self._contestant("side_sam2.py", objects)
        return self._contestant("side_transformers.py", who, images, objects)

    def _samtune(self, images: int, objects: int, precision: str = "auto") -> Contestant:
        return self._contestant("side_samtune.py", "tune", images, objects, precision)

    def _contestant(self, script: str, *arguments: object) -> Contestant:
        return Contestant(
            script, self.work, *arguments, log=self.log, threads=self.plan.threads, device=self.plan.device
        )


def _wait_for(*contestants: Contestant) -> None:
    """Until all have loaded, so that nobody loads while somebody else is timed."""
    for one in contestants:
        one.wait()


def _best_rates(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The machine, with the better of two measurements of each rate: a bound is what it can do undisturbed."""
    pairs = zip(first["rates"], second["rates"], strict=True)
    return first | {"rates": [max(pair, key=lambda rate: rate["gflops"]) for pair in pairs]}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the comparison.

    Attributes:
        what: is compared, in words.
        theirs, ours: seconds, or bytes; `theirs` is the floor where the bound is compared.
        ratio: of the two; above 1 means better, except where the target is an upper limit.
        target: of the ratio, in words; empty where none was set.
    """

    what: str
    theirs: float
    ours: float
    ratio: float
    target: str


def verdicts(found: Measured) -> list[Verdict]:
    """The comparisons, from medians."""
    ours = run_time(
        images=IMAGES,
        steps=STEPS,
        encode=median(found.encode[1:]),
        look=median(found.look),
        step=found.step("1 x 1", "samtune"),
    )
    script = STEPS * found.step("1 x 1", "script")
    evaluated = {who: evaluation_time(answers) for who, answers in found.evaluation.items()}
    step = found.step("4 x 4", "samtune")
    above = {who: memory["peak"] - memory["before"] for who, memory in found.memory.items()}
    return [
        _faster("first run: 3000 steps, 200 images, against the script", script, ours.first, "first run"),
        _faster("second run, cache kept, against the script", script, ours.kept, "second run"),
        _faster(
            "1 x 1 step against transformers, cached", found.step("1 x 1", "cached"), found.step("1 x 1", "samtune")
        ),
        _faster(
            "1 x 8 step against the script", found.step("1 x 8", "script"), found.step("1 x 8", "samtune"), "1 x 8"
        ),
        _faster(
            "1 x 8 step against transformers, cached", found.step("1 x 8", "cached"), found.step("1 x 8", "samtune")
        ),
        _faster("4 x 4 step against transformers, cached", found.step("4 x 4", "cached"), step, "4 x 4"),
        _faster("4 x 4 step against transformers' recipe", found.step("4 x 4", "recipe"), step),
        _faster(
            "10,000 objects by box, cached, against the official predictor",
            evaluated["official predictor"],
            evaluated["samtune, cached"],
        ),
        _faster(
            "10,000 objects by box, cached against encoding",
            evaluated["samtune, encoding"],
            evaluated["samtune, cached"],
        ),
        *(_over_bound(found, who) for who in found.steps["4 x 4"] if who.startswith("samtune")),
        Verdict(
            "memory of a 1 x 16 step above the loaded model, against transformers, cached",
            above["cached"],
            above["samtune"],
            above["samtune"] / above["cached"],
            _target("memory"),
        ),
    ]


def evaluation_time(answers: Sequence[dict[str, float]]) -> float:
    """Seconds for 10,000 objects, from a few images: as many of them as hold so many objects."""
    objects = sum(answer["objects"] for answer in answers) / len(answers)
    return EVALUATED / objects * (median(answer["embed"] for answer in answers) + median(a["ask"] for a in answers))


def bounding_rate(found: Measured, who: str) -> dict[str, Any]:
    """The rate that a contestant's steps are held to: of its own arithmetic with all threads, on a GPU always bf16."""
    machine = found.machine
    is_cpu = machine.get("device", "cpu") == "cpu"
    dtype = found.precision if is_cpu and who == "samtune" else "fp32" if is_cpu else "bf16"
    wanted = (dtype, machine["threads"] if is_cpu else 0)
    return next(one for one in machine["rates"] if (one["dtype"], one["threads"]) == wanted)


def _over_bound(found: Measured, who: str) -> Verdict:
    rate = bounding_rate(found, who)
    floor, step = found.gflop["4 x 4"][who] / rate["gflops"], found.step("4 x 4", who)
    return Verdict(f"4 x 4 step over the compute bound ({_said(rate)})", floor, step, step / floor, _target("bound"))


def _said(rate: dict[str, Any]) -> str:
    """What a rate is of: `fp32, 2 threads`, or `bf16` on a GPU."""
    threads = rate["threads"]
    return f"{rate['dtype']}, {threads} thread{'s' * (threads > 1)}" if threads else rate["dtype"]


def _faster(what: str, theirs: float, ours: float, target: str = "") -> Verdict:
    return Verdict(what, theirs, ours, theirs / ours, _target(target) if target else "")


def _target(name: str) -> str:
    value, word = TARGETS[name]
    return f"{word} {value:g}"


def report(found: Measured, plan: Plan) -> list[str]:
    """Everything measured, in words."""
    machine = found.machine
    rates = "; ".join(f"{one['gflops']:.3g} ({_said(one)})" for one in machine["rates"])
    return [
        f"machine    {machine['name']}, {machine['threads']} of {machine['cores']} cores, load {machine['load']:.2f}",
        f"GFLOP/s    {rates} (matrix products, the best measured)",
        f"work       SAM 2.1 tiny, random weights, images of 1024 x 1024; peers in fp32, samtune in {found.precision}",
        "",
        *text_table(
            ("images x objects", "contestant", "a step", "per prompt", "GFLOP", "over bound", "n"), _step_rows(found)
        ),
        "over bound: a step's time over its own matrix products' at the rate of their arithmetic, above;",
        "medians of n figures, each of a step (samtune: of ten steps), taken in turns",
        "",
        f"encoding and storing an image {seconds(median(found.encode[1:]))}, finding it again "
        f"{seconds(median(found.look))} (medians of {len(found.encode) - 1} and {len(found.look)})"
        + (f"; encoding it in fp32 {seconds(median(found.encode_fp32[1:]))}" if found.encode_fp32 else ""),
        "",
        *text_table(
            ("comparison", "theirs", "samtune", "ratio", "target"), [_verdict_row(one) for one in verdicts(found)]
        ),
        f"runs: extrapolated from {len(found.encode)} images really encoded and {10 * _turns(found)} real steps of "
        "1 x 1; neither side's start,",
        "loading and validations are counted. The script's run is 3000 of its steps. 10,000 objects: extrapolated from "
        f"{plan.evaluated} images",
        "of 16. Memory: resident, in a process of its own; the high-water mark during the steps less what the loaded "
        "model took before.",
        *(
            f"  {who}: {memory['before'] / 2**20:.0f} MiB before, {memory['peak'] / 2**20:.0f} MiB at the peak"
            for who, memory in found.memory.items()
        ),
    ]


def _turns(found: Measured) -> int:
    return len(found.steps["1 x 1"]["samtune"])


def _step_rows(found: Measured) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for setting, contestants in found.steps.items():
        images, objects = map(int, setting.split(" x "))
        for who, times in contestants.items():
            step, gflop = median(times), found.gflop[setting][who]
            per_prompt = seconds(step / images / objects)
            bound = f"{step * bounding_rate(found, who)['gflops'] / gflop:.2f} x"
            rows.append((setting, who, seconds(step), per_prompt, f"{gflop:.1f}", bound, str(len(times))))
    return rows


def _verdict_row(one: Verdict) -> tuple[str, ...]:
    def said(value: float) -> str:
        if "memory" in one.what:
            return f"{value / 2**20:.0f} MiB"
        return duration(value) if value > 60 else seconds(value)

    return (one.what, said(one.theirs), said(one.ours), f"{one.ratio:.2f}", one.target)


def to_json(found: Measured, plan: Plan) -> dict[str, Any]:
    """Everything, as plain values: seconds, 1e9 operations, bytes."""
    return {
        "format": 1,
        "plan": {name: getattr(plan, name) for name in Plan.__dataclass_fields__},
        "versions": {name: version(name) for name in ("samtune", "sam2", "transformers", "torch")},
        **{name: getattr(found, name) for name in Measured.__dataclass_fields__},
        "comparisons": [{name: getattr(one, name) for name in Verdict.__dataclass_fields__} for one in verdicts(found)],
    }


def say(what: str) -> None:
    """What is going on, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/bench/peers.json"), help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant in each setting")
    parser.add_argument("--images", type=int, default=12, help="images to train on, at least 4")
    parser.add_argument("--threads", type=int, default=0, help="threads of each contestant; 0: PyTorch's choice")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where everybody computes")
    parser.add_argument("--quick", action="store_true", help="one round, few images: does it run at all?")
    arguments = parser.parse_args()
    plan = Plan(
        rounds=1 if arguments.quick else arguments.rounds,
        images=4 if arguments.quick else arguments.images,
        turns=1 if arguments.quick else max(2, -(-10 // arguments.rounds)),
        evaluated=1 if arguments.quick else 3,
        threads=arguments.threads,
        device=arguments.device,
    )
    if plan.rounds < 1 or plan.images < 4:
        parser.error("--rounds must be at least 1 and --images at least 4")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    log = arguments.out.with_suffix(".log")
    log.write_text("")
    with TemporaryDirectory(dir=arguments.out.parent, prefix="work-", ignore_cleanup_errors=True) as work:
        found = Contest(Path(work).resolve(), log, plan).run()
    temporary = arguments.out.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(to_json(found, plan), indent=2) + "\n")
    temporary.replace(arguments.out)
    print(*report(found, plan), sep="\n")


if __name__ == "__main__":
    main()
