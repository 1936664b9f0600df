"""The guides, and every other page with commands to type, do what they say."""

from pathlib import Path

import pytest

from tests.docs.reader import FOLLOWED, follow

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

GUIDES = [page for page in FOLLOWED if page != "tutorial.md"]


def test_these_are_among_them() -> None:
    assert "tutorial.md" in FOLLOWED
    assert {"howto/cluster.md", "howto/tls.md", "howto/upgrade.md", "howto/monitoring.md"} <= set(GUIDES)


@pytest.mark.parametrize("page", GUIDES)
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    follow(page, tmp_path)
