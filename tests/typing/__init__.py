"""What type checkers say of tasks. These files are checked, by mypy and pyright, and never run.

A line that must be an error carries what each of the two says. Both also complain of a comment that ignores nothing,
so an error that is lost is an error.
"""
