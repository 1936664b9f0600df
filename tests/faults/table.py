"""Writes the table of docs/faults.md from saved results: `python -m tests.faults.table docs/faults.json`."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.faults.__main__ import SCENARIOS
from tests.support.processes import ROOT

PAGE = ROOT / "docs/faults.md"
BEGIN, END = "<!-- table: python -m tests.faults.table docs/faults.json -->", "<!-- end of table -->"


def _key(row: dict[str, Any]) -> tuple[int, str]:
    name = row["fault"].split()[0]
    return (int(name[1:]) if name[1:].isdigit() else 1_000, row["fault"])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| fault | verdict | L s | L unmoved s | D | occurrences | new owners | caught up after s | etcd | seen besides |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=_key):
        text = SCENARIOS.get(row["fault"].split()[0])
        name = f"{row['fault']}: {text.text}" if text and " " not in row["fault"] else row["fault"]
        notes = ", ".join(f"{what}: {value}" for what, value in row["notes"].items())
        figures = [row[what] for what in ("L", "L_unmoved", "D", "occurrences", "ownership_changes", "recovery_s")]
        lines.append(
            "| " + " | ".join(str(cell) for cell in [name, row["verdict"], *figures, row["etcd"], notes]) + " |"
        )
    return "\n".join(lines)


def main(source: Path) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(json.loads(source.read_text()))}\n{END}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
