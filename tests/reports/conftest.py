import pytest

from tests.reports.sweep import write_ablation, write_composed, write_sweep


@pytest.fixture
def results(tmp_path):
    """A results folder with the made-up sweep ``demo``."""
    write_sweep(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def ablation(tmp_path_factory):
    """A results folder, not to be changed, with the made-up ablation ``p2m_sinkhorn_iterations``."""
    folder = tmp_path_factory.mktemp("ablation")
    write_ablation(folder)
    return folder


@pytest.fixture
def composed(tmp_path):
    """A results folder with the made-up grid ``whole`` of two members that share cells."""
    write_composed(tmp_path)
    return tmp_path
