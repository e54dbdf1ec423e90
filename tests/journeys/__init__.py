"""Journeys: real worker processes on a real database, some of them killed."""
