"""The size of files and classes: what does not fit in one head is split by noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "supervisor").rglob("*.py")), *sorted((ROOT / "botproc").rglob("*.py"))]
LINES = 500
CHANGED = 12
"""Attributes of a class that are changed outside its constructor."""


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield f"{file.relative_to(ROOT)}:{node.name}", node


def changed(cls: ast.ClassDef) -> set[str]:
    """The attributes of `self` that some method other than the constructor assigns."""
    found = set()
    for method in cls.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name != "__init__":
            for node in ast.walk(method):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "self"
                ):
                    found.add(node.attr)
    return found


def test_no_file_is_too_long() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > LINES} == {}


@pytest.mark.parametrize(("name", "cls"), list(classes()), ids=lambda value: value if isinstance(value, str) else "")
def test_no_class_changes_too_much(name: str, cls: ast.ClassDef) -> None:
    assert len(changed(cls)) <= CHANGED, (name, sorted(changed(cls)))
