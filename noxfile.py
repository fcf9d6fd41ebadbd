"""The tests with the Pythons and versions of others that are supported: ``nox``, or ``nox -s short-3.13``.

Sessions ``tests`` run everything but the long tests, ``short`` the whole way once, ``optional`` what needs the extras
``monai`` and ``lpips``. What is installed is what ``make``
installs (see Makefile): up to Python 3.11 with meddlr's pins, from 3.12 on the newest of everything.
"""

import nox

nox.options.reuse_existing_virtualenvs = True

PINNED = ("3.10", "3.11")


def _install(session: nox.Session, extras: str = "dev") -> None:
    constraints = "constraints.txt" if session.python in PINNED else "constraints-newest.txt"
    session.install("-c", constraints, "-e", f".[{extras}]")
    if session.python not in PINNED:
        session.install("--no-deps", "-c", constraints, "meddlr")


@nox.session(python=["3.11", "3.12"])
def tests(session: nox.Session) -> None:
    """All tests but the long ones."""
    _install(session)
    session.run("python", "-m", "pytest", "-m", "not stress", *session.posargs)


@nox.session(python=["3.10", "3.13"])
def short(session: nox.Session) -> None:
    """The whole way once."""
    _install(session)
    session.run("python", "-m", "pytest", "-m", "short", *session.posargs)


@nox.session(python=["3.11", "3.12"])
def optional(session: nox.Session) -> None:
    """The tests that are skipped without MONAI and LPIPS."""
    _install(session, "dev,monai,lpips")
    session.run("python", "-m", "pytest", "tests/test_meddlrs_configs.py", *session.posargs)
