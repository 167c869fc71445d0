from bg_pipeline_tests.simulation import X


def test_x() -> None:
    assert X
