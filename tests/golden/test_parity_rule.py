"""The rule of comparison itself: what it allows, and what it must not excuse."""

import numpy as np
import pytest

REFERENCE = {"weight": np.array([1.0, -2.0, 0.5])}


def off_by(share: float) -> dict[str, np.ndarray]:
    return {"weight": REFERENCE["weight"] + share * 2.0}


def test_tolerance_is_a_share_of_the_largest_entry(assert_parity):
    assert_parity(REFERENCE, off_by(0.9e-4), off_by(0))
    for wrong in (off_by(1.1e-4), off_by(np.nan)):
        with pytest.raises(AssertionError, match="weight"):
            assert_parity(REFERENCE, wrong, off_by(0))


def test_a_difference_that_float64_shares_is_an_error_of_ours(assert_parity):
    with pytest.raises(AssertionError):
        assert_parity(REFERENCE, off_by(3e-4), off_by(3e-4))
    with pytest.raises(AssertionError):
        assert_parity(REFERENCE, off_by(3e-4), off_by(3e-4), terms=REFERENCE)


def test_rounding_of_large_terms_is_excused(assert_parity):
    terms = {"weight": np.array([100.0, 0.0, 0.0])}
    assert_parity(REFERENCE, off_by(3e-4), off_by(3e-4), terms=terms)
    with pytest.raises(AssertionError):
        assert_parity(REFERENCE, off_by(7e-4), off_by(3e-4), terms=terms)


def test_no_array_and_another_shape_are_failures(assert_parity):
    with pytest.raises(AssertionError):
        assert_parity({}, {}, {})
    with pytest.raises(AssertionError):
        assert_parity(REFERENCE, {"weight": np.zeros(4)}, {"weight": np.zeros(4)})
