"""THREAT_MODEL.md says of each claim which test shows it: those tests exist, and no claim goes without."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "THREAT_MODEL.md"
HEADING = ["claim", "what enforces it", "the test that shows it", "what remains"]
NOT_SHOWN = "nothing here shows it"
"""What the third column says where no test can: hardware that is not here."""


def claims() -> list[list[str]]:
    """Rows of every table with the four columns of a claim."""
    rows: list[list[str]] = []
    within = False
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells == HEADING:
            within = True
        elif not cells:
            within = False
        elif within and not set("".join(cells)) <= {"-", " "}:
            rows.append(cells)
    return rows


def known_tests() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


ROWS = claims()
KNOWN = known_tests()


def test_the_page_has_its_claims() -> None:
    assert len(ROWS) > 20, "the table of claims was found and read"


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_claim_names_tests_that_exist_or_says_that_none_can(row: list[str]) -> None:
    assert len(row) == len(HEADING), f"four cells, and no | within one: {row}"
    assert all(row), f"no cell is empty: {row}"
    named = re.findall(r"`(test_\w+)`", row[2])
    assert named or NOT_SHOWN in row[2], f"a claim is shown by a test, or {NOT_SHOWN!r}: {row[0]}"
    missing = [name for name in named if name not in KNOWN]
    assert not missing, f"these tests do not exist: {missing}"


def test_every_path_that_the_page_names_exists() -> None:
    paths = re.findall(
        r"`((?:tests|docs|dataplane|policies|stacks|components|observability)/[\w./-]+)`", PAGE.read_text()
    )
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, f"these paths do not exist: {missing}"


def test_readme_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"(docs/{page.name})" not in readme]
    assert not missing, f"pages that nobody finds: {missing}"
