"""Sphinx: ``sphinx-build -W -b html docs docs/_build/html``."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "django-jobqueue"
author = "django-jobqueue contributors"
copyright = author
# read, not imported: building the docs needs no Django
release = re.search(r'^__version__ = "(.+)"$', (ROOT / "django_jobqueue" / "__init__.py").read_text(), re.MULTILINE)[1]
version = release

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"django-jobqueue {release}"
