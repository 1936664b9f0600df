"""The documentation site's hooks (mkdocs.yml): pages made from the source while the site is built, so that they cannot be stale, and links between them.

Pages under docs/ are the site's own. Files from elsewhere in the repository (INCLUDED) become pages too; a link to a file that is none is shown as its path.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scheduler.cli import main as command

ROOT = Path(__file__).resolve().parents[2]
# By page of the site: the repository's file.
INCLUDED = {
    "examples.md": "examples/README.md",
    "reference/chart.md": "charts/scheduler/README.md",
    "howto/upgrade-chart.md": "charts/scheduler/UPGRADING.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
# In the order in which a reader wants them: what peers speak, then what only operators and replicas see.
PROTOS = (
    "dapr/proto/scheduler/v1/scheduler.proto",
    "dapr/proto/runtime/v1/jobs.proto",
    "dapr/proto/runtime/v1/appcallback.proto",
    "dapr/proto/common/v1/common.proto",
    "scheduler_admin/v1/admin.proto",
    "scheduler_storage/v1/storage.proto",
)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def commands(parent: click.Context | None, one: click.Command, name: str) -> Iterator[str]:
    """A section for each command: its help, as it prints it on a wide terminal."""
    context = click.Context(one, info_name=name, parent=parent, terminal_width=110, max_content_width=110)
    level = "#" * min(4, len(context.command_path.split()) + 1)
    yield f"{level} {context.command_path}\n\n```text\n{one.get_help(context)}\n```\n"
    if isinstance(one, click.Group):
        for child in one.list_commands(context):
            yield from commands(context, one.commands[child], child)


def _command_page() -> str:
    head = (
        "# Every command\n\nWhat each command's `--help` says. An option of `scheduler serve` such as `--lease-ttl` can also be the variable "
        "`SCHEDULER_SERVE_LEASE_TTL`, and so on for each command.\n"
    )
    return "\n".join([head, *commands(None, command, "scheduler")])


def _proto_page() -> str:
    parts = ["# Protocols\n\nThe messages and services, as they are in `protos/`.\n"]
    for name in PROTOS:
        text = (ROOT / "protos" / name).read_text().strip()
        parts.append(f"## {name}\n\n```proto\n{text}\n```\n")
    return "\n".join(parts)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """No page is out of reach: those that nav does not name stand in a section of their own at the end."""
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    here = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    lost = sorted(page for page in here - named if not page.startswith("runbooks/"))
    if lost:
        config.nav = [*(config.nav or []), {"More": lost}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {"reference/cli.md": _command_page(), "reference/protocols.md": _proto_page()}
    made |= {page: (ROOT / source).read_text() for page, source in INCLUDED.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - the hook's signature
    """Links go to pages, whichever file they named."""
    here = page.file.src_uri
    source = INCLUDED.get(here, f"docs/{here}")
    pages = {file: uri for uri, file in INCLUDED.items()}

    def relinked(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if uri is None and (ROOT / path).exists():
            return text if path in text else f"{text} (`{path}`)"
        if uri is None:
            # mkdocs says that it is not there, or knows it: a page that is made.
            return match.group(0)
        return f"[{text}]({os.path.relpath(uri, posixpath.dirname(here) or '.')}{anchor})"

    return _LINK.sub(relinked, markdown)
