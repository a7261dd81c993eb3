"""Counts of what was tried and what came out clean, as one table at the end of a test run."""

from collections import Counter

import pytest

COUNTS = pytest.StashKey[Counter]()


def _counts(config):
    return config.stash.setdefault(COUNTS, Counter())


@pytest.fixture(scope="session")
def tally(pytestconfig):
    """A function that adds to the counts of a kind, for instance `tally("kills", tried=1, clean=1)`."""

    def add(kind, *, tried, clean):
        assert 0 <= clean <= tried
        _counts(pytestconfig).update({(kind, "tried"): tried, (kind, "clean"): clean})

    return add


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several workers: its counts go to the process that reports
        session.config.workeroutput["tally"] = [[*name, count] for name, count in _counts(session.config).items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for kind, column, count in getattr(node, "workeroutput", {}).get("tally", ()):
        _counts(node.config).update({(kind, column): count})


def pytest_terminal_summary(terminalreporter, config):
    counts = _counts(config)
    if not (kinds := list(dict.fromkeys(kind for kind, _ in counts))):
        return
    width = max(len(kind) for kind in kinds)
    terminalreporter.section("reliability")
    terminalreporter.write_line(f"{'kind':{width}}  {'tried':>6}  {'clean':>6}")
    for kind in kinds:
        terminalreporter.write_line(f"{kind:{width}}  {counts[kind, 'tried']:6d}  {counts[kind, 'clean']:6d}")
