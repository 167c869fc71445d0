"""The simulation finds what went wrong once: each old fault, put back, breaks its invariant with some seed."""

import pytest

from bg_pipeline_tests.simulation.old_faults import OLD_FAULTS
from bg_pipeline_tests.simulation.test_simulation import simulate


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", OLD_FAULTS)
def test_a_fault_that_is_put_back_is_found_within_2000_seeds(fault: str) -> None:
    _, invariant = OLD_FAULTS[fault]
    tried = ("--seeds", "2000", "--most", "1", "--no-shrink", "--only", invariant)
    ran = simulate(*tried, "--put-back", fault, timeout=800)
    assert f"  {invariant}: " in ran.stdout, ran.stdout + ran.stderr
