"""What is shipped fits together: version, changelog, migrations, types, and who may import whom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command

import django_jobqueue

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "django_jobqueue"


def test_version_is_the_newest_in_the_changelog():
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == django_jobqueue.__version__


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()


def test_every_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_migrations_know_the_models(db):
    call_command("makemigrations", "django_jobqueue", check=True, dry_run=True)


def test_checks_find_nothing(db):
    call_command("check", fail_level="WARNING", databases=["default"])


def test_imports_only_go_down():
    pytest.importorskip("importlinter", reason="comes with the extra lint")
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
