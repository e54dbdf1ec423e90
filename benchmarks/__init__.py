"""Measures django-jobqueue beside other database queues: ``python -m benchmarks --help``."""
