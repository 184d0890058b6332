import pytest

from lightning_coba.student_t import critical_t, two_sided_p


@pytest.mark.parametrize(
    ("degrees_of_freedom", "level", "t"),
    [(1, 0.05, 12.706), (2, 0.05, 4.303), (4, 0.05, 2.776), (9, 0.01, 3.250), (30, 0.1, 1.697), (7, 0.002, 4.785)],
)
def test_quantiles_are_those_of_printed_tables(degrees_of_freedom: int, level: float, t: float) -> None:
    assert critical_t(level, degrees_of_freedom) == pytest.approx(t, abs=6e-4)
    assert two_sided_p(-t, degrees_of_freedom) == pytest.approx(level, rel=2e-3)


def test_a_tiny_level_is_reached() -> None:
    assert two_sided_p(critical_t(1e-9, 2), 2) == pytest.approx(1e-9, rel=1e-4)
