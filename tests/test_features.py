"""The page that sets our features beside those of others is true: each row has a test that exists, or a reason."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "explanation" / "features.md"
SHOWN = re.compile(r"`test_\w+`|(left out|later): \w")
SYSTEMS = {"procrastinate", "streaQ", "Dramatiq", "Queuert", "roost"}

rows = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| Feature |", "| | What"))
]


def test_the_page_has_a_table_for_each_system():
    titles = set(re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE))
    assert titles > SYSTEMS and len(rows) > 120


def test_each_feature_has_a_test_or_a_reason():
    wrong = [row for row in rows if len(row) != 3 or not row[0] or not SHOWN.search(row[2])]
    assert not wrong, "a row names its test, or says why there is none"


def test_every_test_that_the_page_names_exists():
    there = set(re.findall(r"def (test_\w+)\(", "".join(path.read_text() for path in TESTS.rglob("test_*.py"))))
    named = re.findall(r"`(test_\w+)`", PAGE.read_text())
    assert not sorted(set(named) - there)


def test_the_twenty_defects_are_all_there():
    numbers = [int(row[0]) for row in rows if row[0].isdigit()]
    assert numbers == list(range(1, 21))


def test_tests_of_defects_are_in_the_table():
    there = set(re.findall(r"def (test_f\d\d_\w+)\(", (TESTS / "middleware" / "test_defects.py").read_text()))
    assert not [name for name in there if f"`{name}`" not in PAGE.read_text()]
