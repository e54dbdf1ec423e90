"""The benchmarks measure what the documentation says: its settings, its cells; and they leave nobody out."""

import ast
import importlib.util
import json
import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from django.utils.module_loading import import_string

from benchmarks import cells, chart, options, page, table
from benchmarks.results import Results

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
PAGE = "docs/explanation/benchmarks.md"
PEERS = ROOT / "benchmarks" / "peers"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def production(monkeypatch) -> ModuleType:
    """The settings of the column *production*."""
    spec = importlib.util.spec_from_file_location("production", PEERS / "production.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "production", module)
    return module


def example(page: str, first_line: str) -> str:
    """The example of the page that begins with this line."""
    (found,) = [code for code in FENCE.findall((ROOT / "docs" / page).read_text()) if code.startswith(first_line)]
    return found


def statements(code: str) -> dict[str, str]:
    """The classes and assignments of the code, by their names, as they are but for comments and quotes."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = ast.unparse(node)
        elif isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = ast.unparse(node.value)
    return found


def test_production_is_measured_with_the_settings_that_the_pages_recommend():
    documented = statements(example("howto/middleware.md", "# settings.py: middleware for production"))
    documented |= statements(example("howto/deployment.md", "# settings.py: logging for production"))
    documented |= statements(example("howto/deployment.md", "# shop/logs.py"))
    measured = (PEERS / "production.py").read_text().replace("production.JSONLines", "shop.logs.JSONLines")
    assert statements(measured) == documented
    assert set(documented) == {"JOBQUEUE_MIDDLEWARE", "LOGGING", "JSONLines"}


def test_every_layer_of_production_exists(production):
    assert all(import_string(path) for path in production.JOBQUEUE_MIDDLEWARE)


def test_the_log_of_production_is_json_with_the_job(production):
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "order %s", (42,), None)
    record.job_id, record.job_task, record.job_attempt = 7, "shop.jobs.send", 1
    line = json.loads(production.JSONLines().format(record))
    assert (line["message"], line["job"], line["task"]) == ("order 42", 7, "shop.jobs.send")
    assert not logging.getLogger("production").handlers


def test_the_page_tells_of_every_cell():
    text = (ROOT / PAGE).read_text()
    terms = re.findall(r"^([a-z, ]+)\n: ", text.partition("## The cells")[2], re.MULTILINE)
    assert {name for term in terms for name in term.split(", ")} == set(cells.ALL)


def test_every_peer_is_among_the_requirements():
    required = re.findall(r"^[\w-]+", (ROOT / "benchmarks" / "requirements.txt").read_text(), re.MULTILINE)
    packages = {ast.literal_eval(statements(path.read_text())["PACKAGE"]) for path in PEERS.glob("peer_*.py")} - {
        "django-jobqueue"
    }
    assert packages <= set(required)


@pytest.fixture
def results() -> Results:
    found = Results(entrants={f"{peer}@postgresql": {} for peer in ("jobqueue", "jobqueue:old", "pgqueuer", "slow")})
    for number in (1, 2, 3):
        for peer, rate in (("jobqueue", 3000), ("pgqueuer", 2000), ("slow", 10)):
            found.add(number, "drain", f"{peer}@postgresql", figures={"as installed/s": rate * number})
            found.add(number, "pickup", f"{peer}@postgresql", figures={"p50 ms": rate * number})
    for peer in ("jobqueue", "pgqueuer"):
        found.add(1, "enqueue", f"{peer}@postgresql", figures={"bulk/s": 5})
    return found


def test_a_table_has_the_ratio_of_the_medians(results):
    assert "| jobqueue@postgresql | 6,000 (3,000 to 9,000) | 1.50 |" in table.tables(results)


def test_the_best_other_is_neither_ours_nor_the_floor(results):
    lines = {line.split(" |")[0]: line for line in table.tables(results).partition("**pickup**")[2].splitlines()}
    assert "| 300.00 |" in lines["| jobqueue@postgresql"] and "| 1.00 |" in lines["| slow@postgresql"]


def test_every_peer_is_in_every_picture(results):
    drawn = chart.drawing(results)
    panels = drawn.split('class="title"')[1:]
    assert len(panels) == 3
    for panel in panels:
        for name in ("django-jobqueue<", "django-jobqueue old<", "pgqueuer<", "slow<"):
            assert name in panel
    assert "has no such call" in drawn and "not measured" in drawn


def test_a_checkout_is_named_and_must_be_one(tmp_path):
    assert options.code(f"old={ROOT}") == ("old", ROOT)
    for wrong in ("old", f"old={tmp_path}", f"an old={ROOT}"):
        with pytest.raises(Exception, match="not NAME=PATH"):
            options.code(wrong)


def test_settings_come_in_the_order_of_the_columns():
    assert options.settings("quiet,as-installed") == ["as-installed", "quiet"]
    with pytest.raises(Exception, match="not one of as-installed, production, quiet"):
        options.settings("loud")


def test_a_page_gets_the_tables_that_were_measured_and_the_headline(results):
    results.add(1, "drain", "jobqueue@postgresql", figures={"production/s": 2000})
    text = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in ("headline", "drain", "idle"))
    new = page.updated(text, results)
    assert new.count("old") == 1  # of the cell that was not measured
    assert "**6,000 no-op jobs a\nsecond**" in new and "1.5 times what pgqueuer does" in new
    assert page.updated(new, results) == new


def test_of_several_runs_the_newest_counts_for_each_cell_and_database(tmp_path):
    def run(name, *entrants, cell="drain", rate):
        one = Results(entrants={name: {} for name in entrants})
        for entrant in entrants:
            one.add(1, cell, entrant, figures={"as installed/s": rate})
        one.write(tmp_path / name)
        return tmp_path / name

    together = Results.read(
        [
            run("first", "jobqueue@postgresql", "pgqueuer@postgresql", rate=1.0),
            run("lite", "jobqueue@sqlite", rate=2.0),
            run("other", "jobqueue@postgresql", cell="growth", rate=3.0),
            run("newest", "jobqueue@postgresql", rate=4.0),
        ]
    )
    drained = {measure["entrant"]: measure["figures"] for measure in together.measures if measure["cell"] == "drain"}
    assert drained == {"jobqueue@postgresql": {"as installed/s": 4.0}, "jobqueue@sqlite": {"as installed/s": 2.0}}
    assert together.cells() == {"drain", "growth"}


def test_the_page_has_a_place_for_every_table():
    for name, path in [("headline", "README.md"), *((name, PAGE) for name in ("headline", *cells.ALL))]:
        text = (ROOT / path).read_text()
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1, name
