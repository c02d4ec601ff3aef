"""What a benchmark found, in words and as JSON, and what follows from it for a run of the user's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from samtune.benchmark.machine import Machine
from samtune.config import BenchConfig, PromptPolicy
from samtune.utils.results import Result
from samtune.utils.text import text_table

FORMAT = 2
"""Raised whenever the JSON changes its shape."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What a training step takes, embeddings cached.

    Attributes:
        images, objects: of a step; objects per image.
        decoder: `fast` or `plain`.
        seconds: of one step, one figure per turn of ten steps.
        gflop: 1e9 floating point operations of a step.
        gbytes: 1e9 bytes that its operations read and write.
    """

    images: int
    objects: int
    decoder: str
    seconds: tuple[float, ...]
    gflop: float
    gbytes: float

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return median(self.seconds)

    def over_bound(self, gflops: float) -> float:
        """How many times as long a step takes as its operations would at `gflops` (1e9 a second): 1 is the floor."""
        return self.median * gflops / self.gflop

    def over_memory_bound(self, bandwidth: float) -> float:
        """How many times as long a step takes as moving its bytes would at `bandwidth` (1e9 a second).

        Below 1 where caches keep what operations hand on, as a CPU's do.
        """
        return self.median * bandwidth / self.gbytes


@dataclass(frozen=True, slots=True)
class RunTime:
    """How long a training run takes, in seconds, its validations left out.

    Attributes:
        first: the first time, every image's encoding included.
        kept: with the embedding cache kept.
    """

    first: float
    kept: float


def run_time(*, images: int, steps: int, encode: float, look: float, step: float) -> RunTime:
    """The time of a run from its parts.

    Args:
        images: images of the training split, each counted once for each view.
        steps: optimizer steps.
        encode: seconds to read, encode and store an image.
        look: seconds to read a stored image's embeddings for the first time and to check them.
        step: seconds of a step with embeddings at hand.
    """
    return RunTime(first=images * encode + steps * step, kept=images * look + steps * step)


@dataclass(frozen=True)
class BenchReport(Result):
    """What `samtune bench` found.

    Attributes:
        config: what was asked for.
        machine: where.
        image_size: side of the model's input in pixels.
        precision: of the arithmetic, `fp32` or `bf16`.
        encode: seconds to read, encode and store an image, one figure per image.
        look: seconds to read a stored image's embeddings for the first time and to check them, likewise.
        steps: what steps take, in the order measured.
    """

    config: BenchConfig
    machine: Machine
    image_size: int
    precision: str
    encode: tuple[float, ...]
    look: tuple[float, ...]
    steps: tuple[StepTime, ...]

    def run_time(self, step: StepTime) -> RunTime:
        """How long the run in question takes with such steps."""
        return run_time(
            images=self.config.images * self.config.views,
            steps=self.config.steps,
            encode=median(self.encode),
            look=median(self.look),
            step=step.median * PromptPolicy().turns,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values: seconds, 1e9 operations, 1e9 operations a second."""
        gflops = self.machine.rate(self.precision).gflops
        return {
            "format": FORMAT,
            "settings": self.config.model_dump(mode="json"),
            "machine": self.machine.to_json(),
            "image_size": self.image_size,
            "precision": self.precision,
            "encode_seconds": list(self.encode),
            "look_seconds": list(self.look),
            "steps": [
                asdict(step)
                | {"seconds": list(step.seconds), "median": step.median, "over_bound": step.over_bound(gflops)}
                | {"over_memory_bound": step.over_memory_bound(self.machine.bandwidth)}
                | {"run": asdict(self.run_time(step))}
                for step in self.steps
            ],
        }

    def lines(self) -> list[str]:
        """The report as lines of text."""
        rate = self.machine.rate(self.precision)
        fast = [step for step in self.steps if step.decoder == "fast"]
        return [
            f"machine    {self.machine.line()}",
            f"model      {self.config.model}, {self.image_size} px, {self.precision} on {self.machine.device}",
            f"encoding   {seconds(median(self.encode))} an image, once; {seconds(median(self.look))} to look it up "
            f"(medians of {len(self.encode)})",
            "",
            *text_table(
                (
                    "images x objects",
                    "fast decoder",
                    "plain decoder",
                    "ratio",
                    "GFLOP a step",
                    "over the bound",
                    "GB a step",
                    "over memory's",
                ),
                [self._row(step, rate.gflops) for step in fast],
            ),
            f"medians of {len(fast[0].seconds)} turns of ten steps; bound: a step's matrix products at the rate above;",
            f"memory's: what its operations read and write at {self.machine.bandwidth:.3g} GB/s, caches aside",
            "",
            f"a run of {self.config.steps} steps on {self.config.images} images{self._in_views()} will take about",
            *(self._prospect(step) for step in fast),
            "validations are not counted; a later run finds the embeddings in the cache",
            *self._turns_note(),
        ]

    def _turns_note(self) -> list[str]:
        turns = PromptPolicy().turns
        return [f"steps are of boxes; a run's default prompts ask {turns:.2g} times as often"] if turns > 1 else []

    def _in_views(self) -> str:
        return f" in {self.config.views} views" if self.config.views > 1 else ""

    def _row(self, step: StepTime, gflops: float) -> tuple[str, ...]:
        plain = next(
            other
            for other in self.steps
            if (other.images, other.objects, other.decoder) == (step.images, step.objects, "plain")
        )
        return (
            f"{step.images} x {step.objects}",
            seconds(step.median),
            seconds(plain.median),
            f"{plain.median / step.median:.2f}",
            f"{step.gflop:.1f}",
            f"{step.over_bound(gflops):.1f} x",
            f"{step.gbytes:.2f}",
            f"{step.over_memory_bound(self.machine.bandwidth):.1f} x",
        )

    def _prospect(self, step: StepTime) -> str:
        found = self.run_time(step)
        return (
            f"  {duration(found.first)} the first time, {duration(found.kept)} later, "
            f"with {step.images} x {step.objects} a step"
        )


def seconds(value: float) -> str:
    """A short time: `12.3 ms`, `1.23 s`."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def duration(value: float) -> str:
    """A long time: `40 s`, `12 min`, `3 h 20 min`."""
    if value < 90:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
