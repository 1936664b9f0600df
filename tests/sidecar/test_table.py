"""docs/sidecar.md and the tests agree: every test of the reference's that a client can observe stands there once, every test that it names exists."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "sidecar.md").read_text()
LISTED = (HERE / "section8.txt").read_text().splitlines()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]


def functions(path: Path) -> set[str]:
    """Tests, those in classes by class::name."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{one.name}"
                for one in node.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_every_test_of_section_8_stands_there_once() -> None:
    assert sorted(row[0] for row in ROWS if row[0].startswith(("daprd/", "e2e/", "unit/"))) == sorted(LISTED)


def test_every_named_test_exists() -> None:
    names = re.findall(r"`((?:\.\./)?[a-z0-9_/]+\.py)::([\w:]+)`", PAGE)
    assert len(names) > 60
    for path, name in names:
        assert name in functions(HERE / path), f"{path}::{name}"


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"`(tests/[a-z0-9_/]+\.py|scripts/[a-z-]+)`", PAGE):
        assert (HERE.parents[1] / path).is_file(), path
