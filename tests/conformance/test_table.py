"""docs/conformance.md and the tests agree: every line stands there once, every test that it names exists."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "conformance.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {
        node.name: node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_file_of_section_9_stands_there_once() -> None:
    listed = [row[0] for row in ROWS if row[0].endswith(".go")]
    assert sorted(listed) == sorted((HERE / "section9.txt").read_text().split())


def test_every_weakness_stands_there_once() -> None:
    assert [row[0] for row in ROWS if re.fullmatch(r"W\d+", row[0])] == [f"W{number}" for number in range(1, 53)]


def test_every_named_test_exists() -> None:
    names = re.findall(r"`((?:\.\./)?[a-z0-9_/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(names) > 100
    for path, name in names:
        file = (HERE / path).resolve() if not path.startswith("tests/") else HERE.parents[1] / path
        assert file.is_file(), path
        assert not name or name in functions(file), f"{path}::{name}"


def test_churn_is_what_the_page_says() -> None:
    for row in ROWS:
        found = re.search(r"`([a-z0-9_]+\.py)::(\w+)`", row[1]) if row[0].endswith(".go") else None
        if found and len(row) == 3:
            arguments = [argument.arg for argument in functions(HERE / found[1])[found[2]].args.args]
            assert ("deployment" in arguments) == row[2].startswith("yes"), row
