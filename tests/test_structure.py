"""The shape of the source: short functions, short files, no import cycles, the field's words, tests on public names.

What does not hold yet is listed by file, so that the lists can only shrink: an exception that is no longer needed fails
the test too.
"""

from __future__ import annotations

import ast
import re
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

LONG_FUNCTIONS: set[str] = set()
LONG_FILES: set[str] = set()
WORDS: set[str] = set()
NAMES: set[str] = set()
PRIVATE_IMPORTS: set[str] = set()
SLEEPS: set[str] = set()

OLD_WORDS = re.compile(r"\b(pictures?|conversations?|witness(es)?|foretells?|foretold)\b", re.IGNORECASE)
"""Words of an older private vocabulary, in any text: say image, attention, check, estimate."""
OLD_NAMES = re.compile(r"_*(told(_of)?|settled?|handed|said|be_read|foretold|twins?|pictures?)")
"""Names of functions, variables and attributes that say nothing to a stranger."""


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def holds(found: Iterable[str], allowed: set[str], advice: str) -> None:
    """Nothing is found beyond what is allowed, and everything allowed is still found."""
    names = set(found)
    assert not names - allowed, f"{advice}: {sorted(names - allowed)}"
    assert not allowed - names, f"no longer needed in the list of exceptions: {sorted(allowed - names)}"


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
    holds(chain.from_iterable(map(long_functions, SOURCES)), LONG_FUNCTIONS, f"over {MOST_FUNCTION_LINES} lines")


def test_a_file_is_short_or_says_why_not():
    long = (
        name_of(path)
        for path in SOURCES
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_FILE_LINES
        and "one file because" not in (ast.get_docstring(parsed(path)) or "").lower()
    )
    holds(long, LONG_FILES, f"over {MOST_FILE_LINES} lines without 'one file because ...' in the first docstring")


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
    holds(old, WORDS, "private vocabulary")


def test_names_are_the_fields_words():
    old = (name_of(path) for path in SOURCES if any(map(OLD_NAMES.fullmatch, names_in(parsed(path)))))
    holds(old, NAMES, "private vocabulary")


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
    holds((name_of(path) for path in TESTS if any(private_names(parsed(path)))), PRIVATE_IMPORTS, "private names")


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
    holds((name_of(path) for path in TESTS if sleeps(parsed(path))), SLEEPS, "sleeps")


def sleeps(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name)
        for node in ast.walk(tree)
    )
