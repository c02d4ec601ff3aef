"""The health of a dataset for the report: its splits, and what `prepare` found wrong with it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from samtune.data.prepare.prepare import ISSUES
from samtune.data.prepare.spool import read_issues
from samtune.data.table import Dataset
from samtune.types import Issue, Severity, Split


def dataset_health(dataset: Dataset) -> dict[str, Any]:
    """Splits and findings, as in docs/evaluation.md; findings are None where no list of them can be read.

    Args:
        dataset: whole.
    """
    splits = [
        {
            "split": str(split),
            "images": len(images),
            "without_objects": sum(not image.objects for image in images),
            "objects": sum(len(image.objects) for image in images),
            "groups": len({image.group for image in images}),
        }
        for split in Split
        if (images := dataset.split(split).images)
    ]
    try:
        issues = read_issues(dataset.root / ISSUES)
    except (OSError, ValueError, KeyError, TypeError):  # a folder that something else wrote, or an older one
        return {"splits": splits, "findings": None}
    kinds: dict[tuple[Severity, str], list[Issue]] = defaultdict(list)
    for issue in issues:
        kinds[issue.severity, issue.code].append(issue)
    findings = [
        {"severity": str(severity), "code": code, "count": len(of_kind), "such_as": of_kind[0].message}
        for (severity, code), of_kind in sorted(
            kinds.items(), key=lambda item: (list(Severity).index(item[0][0]), item[0])
        )
    ]
    return {"splits": splits, "findings": findings}
