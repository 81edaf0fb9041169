import pytest

from tests.reports.sweep import write_sweep


@pytest.fixture
def results(tmp_path):
    """A results folder with the made-up sweep ``demo``."""
    write_sweep(tmp_path)
    return tmp_path
