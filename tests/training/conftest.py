"""What the tests of training share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only lose by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
