import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Thousands of tiny updates: on a busy machine, waking a second thread costs more than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
