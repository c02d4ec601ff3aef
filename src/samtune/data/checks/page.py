"""What the doctor found, for people and programs: short grouped text, complete JSON, one HTML page with images.

JSON, format 1:

    format            1
    source            path as given
    source_format     name of the format
    exit_code         0 clean or warnings, 2 errors
    counts            {"error": n, "warning": n, "info": n}
    summary           splits: {SPLIT: {images, without_objects, objects, categories: {NAME: n}}}
                      sizes: {tiny, small, medium, large: n} by mask pixels, under 16^2, 32^2, 96^2, above
                      objects_per_image: {"N": images}, image_sizes: {"WIDTHxHEIGHT": images}
                      unusable_images, unusable_objects: n
    issues            [{code, severity, message, repair, file, image, annotation, where}], errors first
"""

from __future__ import annotations

import base64
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.types import Annotation, Issue, Polygons, Severity
from samtune.utils.files import write_text
from samtune.utils.text import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.data.checks.doctor import Audit, DatasetSummary, FindingExample, ShownImage

_MOST_CATEGORIES = 12
_SHOWN_SIDE = 320
_OUTLINE_COLOUR, _BOX_COLOUR = (255, 40, 80), (255, 210, 0)
_CODE_ORDER = list(Severity)


def render_text(audit: Audit) -> str:
    """The audit in a screenful: what the set is made of, then each kind of finding once, errors first."""
    lines = [f"{audit.source}  ({audit.source_format})", "", *_summary_lines(audit.summary)]
    for (severity, code), issues in _grouped(audit.issues):
        first = issues[0]
        lines += ["", f"{severity.value}: {code}  x {len(issues)}", f"  {_printable(first.message)}"]
        place = ", ".join(dict.fromkeys(part for part in (Path(first.file).name, first.image, first.where) if part))
        lines.append(f"  {'such as' if len(issues) > 1 else 'in'} {_printable(place)}")
        parts = (("expected", first.expected), ("prepare", first.repair), ("to do", first.do))
        lines += [f"  {name}: {_printable(text)}" for name, text in parts if text]
    return "\n".join([*lines, "", _verdict(audit.issues)])


def to_json(audit: Audit) -> dict[str, Any]:
    """The audit whole; the schema stands at the head of this file."""
    summary = audit.summary
    return {
        "format": 1,
        "source": str(audit.source),
        "source_format": audit.source_format,
        "exit_code": audit.exit_code,
        "counts": _counts(audit.issues),
        "summary": {
            "splits": {
                name: {
                    "images": split.images,
                    "without_objects": split.without_objects,
                    "objects": split.objects,
                    "categories": dict(split.categories.most_common()),
                }
                for name, split in summary.splits.items()
            },
            "sizes": {name: summary.sizes[name] for name in ("tiny", "small", "medium", "large")},
            "objects_per_image": {str(number): images for number, images in sorted(summary.objects_per_image.items())},
            "image_sizes": {f"{width}x{height}": images for (width, height), images in summary.image_sizes.items()},
            "unusable_images": summary.unusable_images,
            "unusable_objects": summary.unusable_objects,
        },
        "issues": [asdict(issue) for issue in audit.issues],
    }


def render_html(audit: Audit, out: Path) -> None:
    """Write one page that needs no other file: the summary, and each kind of finding with images.

    Everything that comes from the dataset is escaped.

    Raises:
        StorageError: the disk refused.
    """
    from jinja2 import Environment

    by_code: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for example in audit.examples:
        by_code[example.issue.code].append(_shown(example))
    groups = [
        {"severity": severity.value, "code": code, "count": len(issues), "first": issues[0], "examples": by_code[code]}
        for (severity, code), issues in _grouped(audit.issues)
    ]
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    write_text(
        out,
        page.render(
            audit=audit, groups=groups, verdict=_verdict(audit.issues), sizes=audit.summary.sizes,
            per_image=_per_image(audit.summary), quoted=shlex.quote,
        ),
    )  # fmt: skip


def _grouped(issues: Iterable[Issue]) -> list[tuple[tuple[Severity, str], list[Issue]]]:
    groups: dict[tuple[Severity, str], list[Issue]] = defaultdict(list)
    for issue in issues:
        groups[issue.severity, issue.code].append(issue)
    return sorted(groups.items(), key=lambda item: (_CODE_ORDER.index(item[0][0]), -len(item[1]), item[0][1]))


def _counts(issues: Sequence[Issue]) -> dict[str, int]:
    found = Counter(issue.severity for issue in issues)
    return {severity.value: found[severity] for severity in Severity}


def _verdict(issues: Sequence[Issue]) -> str:
    counts = _counts(issues)
    if not any(counts.values()):
        return "Nothing found."
    return ", ".join(counted(count, "note" if name == "info" else name) for name, count in counts.items() if count)


def _summary_lines(summary: DatasetSummary) -> list[str]:
    lines: list[str] = []
    for name, split in summary.splits.items():
        empty = f", {counted(split.without_objects, 'image')} without" if split.without_objects else ""
        lines.append(f"{name:<6} {counted(split.images, 'image')}, {counted(split.objects, 'object')}{empty}")
        shown = split.categories.most_common(_MOST_CATEGORIES)
        rest = len(split.categories) - len(shown)
        counts = ", ".join(f"{_printable(category)} {count}" for category, count in shown)
        if counts:
            lines.append(f"       {counts}" + (f" and {rest} more" if rest else ""))
    sizes = ", ".join(f"{summary.sizes[name]} {name}" for name in ("tiny", "small", "medium", "large"))
    return [*lines, f"sizes  {sizes}", f"image  {_per_image(summary)}"]


def _per_image(summary: DatasetSummary) -> str:
    counts = sorted(summary.objects_per_image.elements())
    if not counts:
        return "no usable image"
    return f"{counts[0]} to {counts[-1]} objects, half of the images at most {counts[(len(counts) - 1) // 2]}"


def _printable(text: str) -> str:
    """Text from a dataset for a terminal: nothing that moves the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def draw(shown: ShownImage) -> bytes | None:
    """The image, small, with its object's outline and stated box, as a JPEG; None where it cannot be read."""
    from samtune.data.images import read_image
    from samtune.drawing import scaled_to, to_jpeg
    from samtune.errors import DataError

    try:
        pixels = read_image(shown.path, upright=shown.turned)
    except DataError:
        return None
    image, scale = scaled_to(pixels, _SHOWN_SIDE, enlarge=False)
    if shown.annotation is not None:
        _draw_annotation(image, shown.annotation, scale, pixels.shape[0], pixels.shape[1])
    return to_jpeg(image, quality=80)


def _shown(example: FindingExample) -> dict[str, Any]:
    drawn = [shown.drawn or draw(shown) for shown in example.images]
    uris = ["data:image/jpeg;base64," + base64.b64encode(data).decode() for data in drawn if data]
    return {"issue": example.issue, "images": uris}


def _draw_annotation(image: NDArray[np.uint8], annotation: Annotation, scale: float, height: int, width: int) -> None:
    """The stated box; polygons as they are written, because their flaws are in the lines; other shapes by their edge.

    Args:
        image: the image at `scale`; drawn on.
        annotation: in pixels of the image at its own size.
        scale: of `image`.
        height, width: of the image at its own size.
    """
    from samtune.data.masks import rasterise
    from samtune.drawing import outline_box, outline_mask, outline_polygon, shrunken_mask
    from samtune.errors import DataError

    if annotation.box is not None:
        outline_box(image, [side * scale for side in annotation.box], _BOX_COLOUR)
    shape = annotation.segmentation
    if isinstance(shape, Polygons):
        for ring in shape.rings:
            if len(ring) >= 4:
                outline_polygon(image, [value * scale for value in ring], _OUTLINE_COLOUR)
    elif shape is not None:
        with suppress(DataError):
            mask = rasterise(shape, height, width)
            outline_mask(image, shrunken_mask(mask, (image.shape[1], image.shape[0])), _OUTLINE_COLOUR)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>samtune doctor: {{ audit.source }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --ink: #1c2024; --ground: #fff; --soft: #556; --line: #ccc;
  --error: #b3261e; --warning: #8a5a00; --info: #3b5bdb }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ececec; --ground: #161618; --soft: #aab; --line: #444;
  --error: #ff8a80; --warning: #ffc266; --info: #9db2ff } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: var(--ink);
  background: var(--ground); overflow-wrap: anywhere }
.scroll { overflow-x: auto }
h1 { font-size: 1.4rem; margin-bottom: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .2rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
th { border-bottom: 1px solid var(--line); font-weight: 600 } td.number { text-align: right }
.error { color: var(--error) } .warning { color: var(--warning) } .info { color: var(--info) }
.quiet { color: var(--soft) }
.examples { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: .5rem 0; max-width: 100% }
figcaption { font-size: .8rem; color: var(--soft); width: 0; min-width: min(max(100%, 20rem), 90vw) }
p { margin: .2rem 0 }
img { display: inline-block; max-width: 100%; border-radius: 4px; vertical-align: top }
</style></head><body>
<h1>{{ audit.source }}</h1>
<p class="quiet">{{ audit.source_format }} &middot; {{ verdict }}</p>
<div class="scroll"><table>
<tr><th>split</th><th>images</th><th>without objects</th><th>objects</th><th>categories</th></tr>
{% for name, split in audit.summary.splits.items() %}
<tr><td>{{ name }}</td><td class="number">{{ split.images }}</td><td class="number">{{ split.without_objects }}</td>
<td class="number">{{ split.objects }}</td>
<td>{% for category, count in split.categories.most_common(40) %}{{ category }} {{ count }}
{{- ", " if not loop.last }}{% endfor %}</td></tr>
{% endfor %}</table></div>
<p>Objects by size: {% for name in ("tiny", "small", "medium", "large") %}{{ sizes[name] }} {{ name }}
{{- ", " if not loop.last }}{% endfor %} (limits 16&sup2;, 32&sup2;, 96&sup2; pixels). Per image: {{ per_image }}.</p>
{% for group in groups %}
<h2><span class="{{ group.severity }}">{{ group.severity }}</span> {{ group.code }} &times; {{ group.count }}</h2>
<p>{{ group.first.message }}</p>
{% if group.first.expected %}<p class="quiet">expected: {{ group.first.expected }}</p>{% endif %}
{% if group.first.repair %}<p class="quiet">prepare: {{ group.first.repair }}</p>{% endif %}
{% if group.first.do %}<p class="quiet">to do: {{ group.first.do }}</p>{% endif %}
<div class="examples">{% for example in group.examples if example.images %}
<figure>{% for uri in example.images %}<img src="{{ uri }}" alt="">
{% endfor %}<figcaption>{{ example.issue.image or "" }}
{{- " annotation " ~ example.issue.annotation if example.issue.annotation }}: {{ example.issue.message }}
{% if example.issue.image %}<br>
<code>samtune studio {{ quoted(audit.source | string) }} --image {{ quoted(example.issue.image) }}</code>
{% endif %}</figcaption>
</figure>
{% endfor %}</div>
{% endfor %}
</body></html>
"""
