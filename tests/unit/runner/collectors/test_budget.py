"""How much an agent may say."""

from __future__ import annotations

from cnap_runner.runner.collectors.budget import BURST_BYTES, BYTES_PER_SECOND, Budget


def test_a_burst_is_taken_and_comes_back_over_time() -> None:
    """As much as the engine keeps at once, then a mebibyte each second, and never more than the burst."""
    budget = Budget(0.0)
    assert budget.take(BURST_BYTES, 0.0)
    assert not budget.take(1, 0.0)
    assert budget.take(BYTES_PER_SECOND, 1.0)
    assert not budget.take(1, 1.0)
    assert budget.take(BURST_BYTES, 1e6)
    assert not budget.take(1, 1e6)
