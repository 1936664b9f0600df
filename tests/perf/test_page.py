"""docs/performance.md says what docs/performance.json holds, and says so where a run was not correct."""

from tests.perf.page import BEGIN, END, PAGE, ROWS, kept, render


def result(late_ms: float, missing: int) -> dict:
    return {"figures": {"lateness p99 (ms)": late_ms}, "faults": {"missing": missing}}


def test_the_page_is_made_from_its_json() -> None:
    page = PAGE.read_text()
    assert page == render(page, kept()), "scripts/measure --render-only makes it anew"


def test_a_row_shows_the_median_the_spread_and_every_fault() -> None:
    row = {**ROWS[2]._asdict(), "factors": [1.5, 1.4], "results": [result(7, 0), result(9.5, 2), result(8, 0)]}
    row["on"] = {"machine": "m", "python": "3.11.7", "version": "0"}
    page = render(f"a{BEGIN}old{END}z", {"at": "2026-01-01", "etcd": "etcd 3.4", "rounds": 3, "rows": [row]})
    assert page.startswith(f"a{BEGIN}Measured on 2026-01-01, m,") and page.endswith(f"{END}z")
    assert "lateness p99 8.0 (7.0 to 9.5) ms" in page and "| 1.50 / 1.40 | missing 2 |" in page
