"""Quantities and durations."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headroom import units


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("20Gi", 20480),
        ("20480Mi", 20480),
        ("20G", 19074),
        ("8e10", 76294),
        ("1", 1),
        ("0", 0),
        ("1048576", 1),
        ("1.5Gi", 1536),
        (".5Mi", 1),
    ],
)
def test_bytes_become_mib_rounded_up(text: str, mib: int) -> None:
    assert units.quantity_to_mib(text) == mib


def test_capacity_is_rounded_down() -> None:
    assert units.quantity_to_mib_floor("20G") == 19073


@pytest.mark.parametrize(("text", "milli"), [("500m", 500), ("2", 2000), ("0.1", 100), ("1u", 1), ("1k", 1_000_000)])
def test_cpu_in_thousandths(text: str, milli: int) -> None:
    assert units.quantity_to_milli(text) == milli


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "20GiB", "1e999", "0x10", "nan", "inf", "1" * 100, "--1", "1e"])
def test_not_a_quantity(text: str) -> None:
    with pytest.raises(units.UnitError):
        units.parse_quantity(text)


def test_a_count_has_no_fraction() -> None:
    assert units.quantity_to_int("2") == 2
    with pytest.raises(units.UnitError, match="whole number"):
        units.quantity_to_int("1500m")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("7", 7), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5 minutes", "-3s", "s", "1h30"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(units.UnitError):
        units.parse_duration_seconds(text)


@given(st.integers(min_value=0, max_value=2**50), st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "G"]))
def test_rounding_never_loses_a_byte(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    exact = units.parse_quantity(text)
    assert units.quantity_to_mib_floor(text) * units.MIB <= exact <= units.quantity_to_mib(text) * units.MIB
    assert isinstance(exact, Fraction)
