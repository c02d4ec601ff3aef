"""Whether a finder's scores are right on images like those they are fitted on, and not only on those themselves.

    python benchmarks/finder_calibration.py build/finder/nuts_coco/run [FINDER ...]

Four validation images may be unlike the four of test, and then scores are off on test though nothing is wrong with how
they are fitted. So the held-out images, validation and test together, are taken group by group: the finds of a group
are scored by a calibration fitted to all other groups, and the finds of all groups are pooled. Beside the error stand
what so few finds would show by chance if each score were exact, and what that stays below 95 times in 100. Several
finders of one run, such as those of several seeds, are pooled too. Nothing is trained, nothing is asserted.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samtune.api.loading import predictor_of
from samtune.finder.calibration import ScoreCalibration, calibration_error, error_by_chance, fit
from samtune.finder.finding import find
from samtune.finder.fitting import choose_lessons
from samtune.finder.measure import FoundImage, TrueImage, read_true, right_finds
from samtune.finder.name_training import seen_from
from samtune.finder.storage import load_finder
from samtune.training.run import open_embeddings

Floats = NDArray[np.float64]
BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)


@dataclass(frozen=True)
class HeldOut:
    """The finds of one held-out image, and what is there."""

    truth: TrueImage
    found: FoundImage
    evidence: Floats

    @property
    def group(self) -> str:
        """Of images that show the same."""
        return self.truth.image.group

    def judged(self, calibration: ScoreCalibration) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Evidence and scores of the finds that count, and which are right."""
        scores = calibration(self.evidence)
        order = np.argsort(-scores, kind="stable")
        right, counted = right_finds(self.truth, self.found.rescored(scores))
        return self.evidence[order][counted], scores[order][counted], right[counted]


def held_out(run: Path, finder_path: Path) -> list[HeldOut]:
    """What a finder finds in the images it was chosen on and in those of test."""
    predictor, finder = predictor_of(run, "cpu"), load_finder(finder_path)
    embeddings = open_embeddings(run, predictor.loaded)
    dataset = embeddings.dataset
    seed = finder.about["config"]["seed"]
    rows: list[HeldOut] = []
    for image in (*choose_lessons(dataset, seed).valid, *dataset.split("test").images):
        finds = find(predictor, seen_from(embeddings, image, finder.looks), finder)
        rows.append(HeldOut(read_true(dataset, image, finder.classes), FoundImage.of(finds), finds.evidence))
    return rows


def fitted(rows: list[HeldOut]) -> ScoreCalibration:
    """A calibration from some images."""
    judged = [row.judged(ScoreCalibration()) for row in rows]
    return fit(np.concatenate([one[0] for one in judged]), np.concatenate([one[2] for one in judged]))


def cross_fitted(rows: list[HeldOut]) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of all finds, each from a calibration that has not seen its group, and which finds are right."""
    scores, right = list[Floats](), list[NDArray[np.bool_]]()
    for group in sorted({row.group for row in rows}):
        calibration = fitted([row for row in rows if row.group != group])
        for row in rows:
            if row.group == group:
                _, mine, hits = row.judged(calibration)
                scores.append(mine)
                right.append(hits)
    return np.concatenate(scores), np.concatenate(right)


def line(name: str, scores: Floats, right: NDArray[np.bool_]) -> str:
    """A row of the table."""
    rng = np.random.default_rng(1)
    chance = [calibration_error(scores, rng.random(len(scores)) < scores) for _ in range(200)]
    figures = (calibration_error(scores, right), error_by_chance(scores), float(np.quantile(chance, 0.95)))
    return " | ".join((f"| {name}", str(len(scores)), *(f"{one:.3f}" for one in figures))) + " |"


def main() -> None:
    """Print a line for each finder, one for all of them, and how often finds of each score are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("finders", type=Path, nargs="*", help="finders of this run; left out, the one in it")
    wanted = parser.parse_args()
    print("| finder | finds | calibration error | by chance | 95 % of chance below |")
    print("|---|---|---|---|---|")
    each = list[tuple[Floats, NDArray[np.bool_]]]()
    for finder in wanted.finders or [wanted.run]:
        each.append(cross_fitted(held_out(wanted.run, finder)))
        print(line(finder.name, *each[-1]), flush=True)
    scores, right = (np.concatenate(parts) for parts in zip(*each, strict=True))
    if len(each) > 1:
        print(line("all", scores, right))
    print("\n| scores | finds | mean score | right |")
    print("|---|---|---|---|")
    for low, high in pairwise(BINS):
        inside = (scores >= low) & ((scores < high) | (high == 1.0))
        if inside.any():
            shares = f"{scores[inside].mean():.3f} | {right[inside].mean():.3f}"
            print(f"| {low:g} to {high:g} | {inside.sum()} | {shares} |")


if __name__ == "__main__":
    main()
