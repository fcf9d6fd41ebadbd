"""Fixtures of the tests of jobs."""

from tests.helpers.jobs import start, start_job  # noqa: F401
