"""Commands that nobody types exist (test_tutorial.py and test_guides.py type the others); the site builds strictly and works offline."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scheduler.cli import main as command
from tests.chart.conftest import deploy_tools
from tests.docs.console import pattern, steps
from tests.support.processes import ROOT

pytestmark = [pytest.mark.slow]
DOCS = ROOT / "docs"
PAGES = [
    *DOCS.rglob("*.md"),
    ROOT / "README.md",
    *(ROOT / name / "README.md" for name in ("examples", "deploy", "charts/scheduler")),
]


def typed(path: Path) -> Iterator[str]:
    """Every command line of a page, without prompts and continuation marks."""
    for language, body in re.findall(
        r"^ *```(bash|console)[^\n]*\n(.*?)^ *```$", path.read_text(), re.MULTILINE | re.DOTALL
    ):
        for line in map(str.strip, body.replace("\\\n", " ").splitlines()):
            if language == "bash" or line.startswith("$ "):
                yield line.removeprefix("$ ")


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def unknown_options(words: list[str]) -> list[str]:
    """Of a `scheduler ...` command line: commands and options that there are not."""
    if words[1:3] == ["config", "show"] and {"serve", "sidecar"} & set(words):
        # Another command line follows.
        at = next(index for index, word in enumerate(words) if word in {"serve", "sidecar"})
        return unknown_options(words[:at]) + unknown_options([words[0], *words[at:]])
    one: click.Command = command
    known: set[str] = {"--help", "-h"}
    for word in words[1:]:
        if word in {"--", "|", "||", "&&", "&", ";", ">"}:
            break
        if isinstance(one, click.Group) and word in one.commands:
            one = one.commands[word]
            known |= {name for parameter in one.params for name in (*parameter.opts, *parameter.secondary_opts)}
        elif not word.startswith("-") and one.context_settings.get("ignore_unknown_options"):
            # What follows are another command's arguments.
            break
        elif (
            word.startswith("-") and not re.fullmatch(r"-\d+", word) and word.split("=")[0] not in known
        ) or one is command:
            return [word]
    return []


def test_every_command_line_of_ours_names_options_that_there_are() -> None:
    lines = [(path, words_of(line)) for path in PAGES for line in typed(path)]
    ours = [(path, words) for path, words in lines if words[:1] == ["scheduler"]]
    assert len(ours) > 40
    faults = [f"{path.relative_to(ROOT)}: {' '.join(words)}" for path, words in ours if unknown_options(words)]
    assert faults == []
    assert unknown_options(["scheduler", "serve", "--no-such"]) and unknown_options(["scheduler", "sreve"])


def test_every_script_that_is_named_is_there() -> None:
    for path in PAGES:
        for script in re.findall(r"(?<![\w/.-])scripts/[a-z-]+(?:\.py)?", path.read_text()):
            assert (ROOT / script).exists(), f"{path}: {script}"


def test_every_helm_command_renders() -> None:
    """What cannot be installed here can be rendered: the values are taken, and the chart's guards agree."""
    lines = [words_of(line) for line in typed(DOCS / "howto" / "kubernetes.md")]
    helm = [words[2:] for words in lines if words[:2] in (["helm", "install"], ["helm", "upgrade"])]
    assert len(helm) > 6
    for words in helm:
        result = subprocess.run(
            [
                deploy_tools() / "helm4",
                "template",
                *words,
                "--api-versions",
                "monitoring.coreos.com/v1",
                "--api-versions",
                "cert-manager.io/v1",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0 and "kind: StatefulSet" in result.stdout, f"{words}: {result.stderr}"


def test_the_site_builds_strictly_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    result = subprocess.run(
        [ROOT / "scripts" / "docs", tmp_path / "site"], capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe|source)[^>]* src="(https?:[^"]*)"', text)
        fetched += re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect|icon)"[^>]* href="(https?:[^"]*)"', text)
        assert fetched == [], page
    reference = (tmp_path / "site" / "reference" / "cli.html").read_text()
    for name in command.commands:
        assert f'id="scheduler-{name}"' in reference, name
    metrics = (tmp_path / "site" / "metrics.html").read_text()
    assert "scheduler_triggers_late_total" in metrics
    assert "rpc ScheduleJob" in re.sub(r"<[^>]+>", "", (tmp_path / "site" / "reference" / "protocols.html").read_text())


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """The strict build can fail: with --quiet it could not."""
    text = (ROOT / "mkdocs.yml").read_text().replace("docs_dir: docs", f"docs_dir: {tmp_path / 'docs'}")
    text = text.replace("scripts/generators/site.py", str(ROOT / "scripts/generators/site.py"))
    (tmp_path / "mkdocs.yml").write_text(text)
    subprocess.run(["cp", "-r", DOCS, tmp_path / "docs"], check=True)
    with (tmp_path / "docs" / "faq.md").open("a") as faq:
        faq.write("\n[nowhere](nowhere.md)\n")
    build = (
        (ROOT / "scripts" / "docs").read_text().splitlines()[-1].replace('"${1:-.cache/site}"', str(tmp_path / "site"))
    )
    result = subprocess.run(
        ["bash", "-c", f"cd {ROOT}; {build} --config-file {tmp_path / 'mkdocs.yml'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0 and "nowhere.md" in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        ("ok", "ok\n", True),
        ("ok", "ok\nmore\n", False),
        ("a ... c", "a b c\n", True),
        ("a ... c", "a b d\n", False),
        ("...\nlast", "1\n2\nlast\n", True),
        ("first\n...", "first\n", True),
        ("first\n...", "second\n", False),
        ("", "", True),
    ],
)
def test_what_is_shown_is_compared(expected: str, printed: str, fits: bool) -> None:
    assert (re.fullmatch(pattern(expected) if expected else "", printed) is not None) == fits


def test_steps_of_a_page() -> None:
    page = '```console title="Terminal 1"\n$ one\nout\n^C\n```\n\n```python title="app.py"\nx\n```\n\n```bash\n$ no\n```\n\n```console\n$ two\n$ three\n```\n'
    assert [tuple(step) for step in steps(page)] == [
        ("Terminal 1", "one", "out", ""),
        ("Terminal 1", "^C", "", ""),
        ("", "", "x\n", "app.py"),
        ("", "two", "", ""),
        ("", "three", "", ""),
    ]
