"""Settings of all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# examples are not timed: a machine that does other work besides must not fail a test
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and the machine may have other work."""
    import torch  # not for tests that need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
