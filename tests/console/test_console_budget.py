import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.console.budget import BURST_SECONDS, Budget
from sidecar.errors import OverloadedError


@settings(deadline=None)
@given(st.floats(0.01, 4), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 2)), min_size=1, max_size=200))
def test_answers_take_at_most_their_share_and_one_burst_and_one_answer(share, steps):
    now, spent = 0.0, 0.0
    budget = Budget(share, lambda: now)
    for wait, cost in steps:
        now += wait
        try:
            budget.admit()
        except OverloadedError:
            continue
        budget.charge(cost)
        spent += cost
        assert spent <= share * now + BURST_SECONDS + cost + 1e-6


def test_it_is_admitted_again_when_it_was_told():
    now = 0.0
    budget = Budget(0.5, lambda: now)
    budget.charge(BURST_SECONDS + 1)
    with pytest.raises(OverloadedError, match="try again in 3 s"):
        budget.admit()
    now = 3.0
    budget.admit()
