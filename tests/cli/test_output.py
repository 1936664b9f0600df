"""What commands print: columns that stand under each other, colours where a person looks, and nothing that moves the cursor."""

import json
import os
import pty
import subprocess
import sys

import pytest
import yaml

from scheduler.cli.output import print_document, print_table, printable
from tests.support.processes import ROOT

TABLE = "from scheduler.cli.output import print_table; print_table(['NAME', 'N'], [['a', 1]])"


def test_columns_stand_under_each_other_whatever_they_hold(capsys) -> None:
    print_table(("NAME", "AT", "N"), [("a", None, 1), ("日本", "now", 12), ("e\u0301", "x", None)])
    assert capsys.readouterr().out.splitlines() == ["NAME  AT   N", "a          1", "日本  now  12", "e\u0301     x"]


def test_a_table_without_rows_is_its_header(capsys) -> None:
    print_table(("NAME", "N"), [])
    assert capsys.readouterr().out == "NAME  N\n"


def test_what_others_named_cannot_move_the_cursor(capsys) -> None:
    assert printable("\x1b[2Ja\nb\u202e") == "\\x1b[2Ja\\nb\\u202e"
    print_table(("NAME",), [("\x1b[2J",)])
    assert "\x1b" not in capsys.readouterr().out


def test_documents_keep_their_order(capsys) -> None:
    document = {"b": [1, "ü"], "a": None}
    print_document("json", document)
    text = capsys.readouterr().out
    assert json.loads(text) == document and text.index('"b"') < text.index('"a"') and "ü" in text
    print_document("yaml", document)
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == document and text.index("b:") < text.index("a:") and "ü" in text


@pytest.mark.parametrize(("environment", "bold"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_shows_a_bold_header_unless_no_color_is_set(environment: dict[str, str], bold: bool) -> None:
    ours, theirs = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    try:
        subprocess.run(
            [sys.executable, "-c", TABLE], cwd=ROOT, stdout=theirs, env={**plain, **environment}, check=True, timeout=30
        )
        assert (b"\x1b[1m" in os.read(ours, 1_000)) is bold
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_pipe_gets_no_colour() -> None:
    ran = subprocess.run([sys.executable, "-c", TABLE], cwd=ROOT, capture_output=True, check=True, timeout=30)
    assert ran.stdout == b"NAME  N\na     1\n"
