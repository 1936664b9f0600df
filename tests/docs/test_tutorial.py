"""The tutorial does what it says. In a file of its own: it is by far the longest page, and files are what runs beside each other."""

from pathlib import Path

import pytest

from tests.docs.reader import follow

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    follow("tutorial.md", tmp_path)
