"""A module of tasks that fails as it is imported."""

raise RuntimeError("a setting is missing")
