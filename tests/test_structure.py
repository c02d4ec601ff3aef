"""The shape of the source: short functions, short files, no import cycles, the field's words, tests on public names.

There are no exceptions. A file that has to be longer says in its first docstring "One file because ...".
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import grimp
import pytest

REPO = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPO / "src").rglob("*.py"))
TESTS = sorted((REPO / "tests").rglob("*.py"))
BENCHMARKS = sorted((REPO / "benchmarks").rglob("*.py"))
DOCS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
MOST_FUNCTION_LINES = 60
MOST_FILE_LINES = 450

OLD_WORDS = re.compile(r"\b(pictures?|conversations?|witness(es)?|foretells?|foretold)\b", re.IGNORECASE)
"""Words of an older private vocabulary, in any text: say image, attention, check, estimate."""
OLD_NAMES = re.compile(r"_*(told(_of)?|settled?|handed|said|be_read|foretold|twins?|pictures?)")
"""Names of functions, variables and attributes that say nothing to a stranger."""


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def assert_none(found: Iterable[str], what: str) -> None:
    names = sorted(set(found))
    assert not names, f"{what}: {names}"


def long_functions(path: Path) -> Iterable[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if code_lines(node) > MOST_FUNCTION_LINES:
                yield f"{name_of(path)}:{node.name}"


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first, last = node.lineno, node.end_lineno or node.lineno
    length = last - first + 1
    if ast.get_docstring(node) is not None:
        text = node.body[0]
        length -= (text.end_lineno or text.lineno) - text.lineno + 1
    return length


def test_a_function_does_one_thing():
    assert_none(chain.from_iterable(map(long_functions, SOURCES)), f"over {MOST_FUNCTION_LINES} lines")


def test_a_file_is_short_or_says_why_not():
    long = (
        name_of(path)
        for path in SOURCES
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_FILE_LINES
        and "one file because" not in (ast.get_docstring(parsed(path)) or "").lower()
    )
    assert_none(long, f"over {MOST_FILE_LINES} lines without 'one file because ...' in the first docstring")


def test_different_things_have_different_names():
    """No two public classes have one name."""
    classes = [
        node.name
        for path in SOURCES
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and node.name[0] != "_"
    ]
    assert [name for name, count in Counter(classes).items() if count > 1] == []


def test_a_file_says_what_lives_there():
    silent = [name_of(path) for path in SOURCES if not ast.get_docstring(parsed(path))]
    assert not silent


def test_modules_import_each_other_in_no_circle():
    graph = grimp.build_graph("samtune", cache_dir=None)
    graph.remove_module("samtune")  # its lazy names are imports for type checkers only
    assert cycles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []


def cycles(imports: dict[str, set[str]]) -> list[str]:
    """What remains of a graph when modules that import nothing that remains are taken out again and again."""
    left = {module: set(imported) for module, imported in imports.items()}
    while free := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def test_circles_are_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]
    assert cycles({"a": {"b"}, "b": set()}) == []


def test_texts_use_the_words_of_the_field():
    paths = {*SOURCES, *TESTS, *BENCHMARKS, *DOCS} - {Path(__file__).resolve()}
    old = (name_of(path) for path in paths if OLD_WORDS.search(path.read_text(encoding="utf-8")))
    assert_none(old, "private vocabulary")


def test_the_architecture_page_names_what_is_there():
    """Every path and room that the page names exists; every room has a line."""
    page = (REPO / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", page)) - {"docs/decisions/"}
    roots = (
        REPO,
        REPO / "src",
        REPO / "src/samtune",
        *(path for path in (REPO / "src/samtune").iterdir() if path.is_dir()),
    )
    missing = [name for name in named if "NAME" not in name and not any((root / name).exists() for root in roots)]
    assert missing == []
    rooms = {f"{path.parent.name}/" for path in (REPO / "src/samtune").glob("*/__init__.py")}
    assert rooms <= named, f"the page has no line for {sorted(rooms - named)}"


def test_names_are_the_fields_words():
    old = (name_of(path) for path in SOURCES if any(map(OLD_NAMES.fullmatch, names_in(parsed(path)))))
    assert_none(old, "private vocabulary")


def names_in(tree: ast.Module) -> Iterable[str]:
    """Every name that a file defines, assigns or uses."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name) | ast.arg(arg=name):
                yield name
            case ast.Attribute(attr=name):
                yield name


@pytest.mark.parametrize("text", ["a picture", "Pictures of cells", "a conversation"])
def test_old_words_are_found(text):
    assert OLD_WORDS.search(text)
    assert not OLD_WORDS.search("an image, depicted; self-attention; estimated")


def test_tests_use_public_names():
    assert_none((name_of(path) for path in TESTS if any(private_names(parsed(path)))), "private names")


def private_names(tree: ast.Module) -> Iterable[str]:
    """Names with a leading underscore that are imported from samtune, or reached through one of its modules."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "samtune":
            modules |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in modules and is_private(node.attr):
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")  # monkeypatch.setattr("samtune.x._y", ...)
            yield from filter(is_private, parts if parts[0] == "samtune" else [])


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_repr_html_"


def test_tests_wait_for_events_and_not_for_time():
    assert_none((name_of(path) for path in TESTS if sleeps(parsed(path))), "sleeps")


def sleeps(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name)
        for node in ast.walk(tree)
    )
