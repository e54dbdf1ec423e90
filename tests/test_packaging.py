"""What is shipped fits together: version, changelog, migrations, types, and who may import whom."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from django.core.management import call_command

import django_jobqueue

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "django_jobqueue"
WORKFLOWS = ROOT / ".github" / "workflows"

in_a_checkout = pytest.mark.skipif(not WORKFLOWS.exists(), reason="the sdist has no workflows")


def test_version_is_the_newest_in_the_changelog():
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == django_jobqueue.__version__


def test_the_lowest_versions_that_are_tested_are_the_lowest_that_are_allowed():
    text = (ROOT / "pyproject.toml").read_text()
    allowed = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)[";]', text))
    pinned = dict(
        re.findall(r"^([\w-]+)(?:\[\w+\])?==([\d.]+)$", (ROOT / "tests/lowest.txt").read_text(), re.MULTILINE)
    )
    assert pinned == {name: allowed[name] for name in pinned}
    ours = {"asgiref", "cronsim", "django", "django-tasks", "psycopg", "rich", "opentelemetry-api", "prometheus-client"}
    assert ours <= set(pinned)


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


def test_every_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_migrations_know_the_models(db):
    call_command("makemigrations", "django_jobqueue", check=True, dry_run=True)


def test_checks_find_nothing(db):
    call_command("check", fail_level="WARNING", databases=["default"])


@pytest.mark.parametrize(
    ("package", "layer"), [("opentelemetry", "opentelemetry"), ("prometheus_client", "prometheus")]
)
def test_an_extra_is_imported_by_its_layer_only(package, layer):
    imports = re.compile(rf"^\s*(from|import) {package}\b", re.MULTILINE)
    found = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if imports.search(path.read_text())]
    assert found == [f"middleware/{layer}.py"]
    loaded = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup(); import sys; sys.exit({package!r} in sys.modules)"],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
    assert loaded.returncode == 0


def test_imports_only_go_down():
    pytest.importorskip("importlinter", reason="comes with the extra lint")
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert result.returncode == 0, result.stdout + result.stderr


@in_a_checkout
def test_ci_runs_every_environment_of_tox():
    yaml = pytest.importorskip("yaml", reason="comes with the extra docs")
    matrix = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    pairs = [{"python": python, "django": django} for python, django in product(matrix["python"], matrix["django"])]
    run = {f"py{pair['python']}-django{pair['django']}" for pair in pairs if pair not in matrix["exclude"]}
    listed = set()  # py3{12,13}-django{52,60} are four
    for line in re.findall(r"^    (py3\S+)$", (ROOT / "tox.ini").read_text(), re.MULTILINE):
        parts = [part.split(",") for part in re.split(r"[{}]", line)]
        listed |= {"".join(chosen) for chosen in product(*parts)}
    assert {name.replace(".", "") for name in run} == listed


@in_a_checkout
def test_actions_are_pinned_by_commit():
    used = [line for path in WORKFLOWS.glob("*.yml") for line in re.findall(r"uses: (.*)", path.read_text())]
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/\w+\.yml")
    assert used and [line for line in used if not pinned.fullmatch(line)] == []
    actions = {line for line in used if "@" in line}
    assert len({line.partition("@")[0] for line in actions}) == len(actions), "one version of each"
