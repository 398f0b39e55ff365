from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.timeline.levels import columns, cover, levels


@dataclass(frozen=True)
class Span:
    start: float
    span: float


def pyramid(seconds, spans=(10, 60, 600)):
    """All complete panes of each span in [0, seconds)."""
    return [Span(start, span) for span in spans for start in range(0, seconds - span + 1, span)]


def covered(panes):
    return {second for pane in panes for second in range(int(pane.start), int(pane.start + pane.span))}


def test_the_levels_of_the_default_keep_half_an_hour_three_hours_a_day_and_a_week():
    assert [(one.span, one.keep) for one in levels(10.0, 7.0)] == [
        (10, 1800),
        (60, 10_800),
        (600, 86_400),
        (3600, 604_800),
    ]


def test_no_level_is_kept_for_longer_than_asked_for():
    assert {one.keep for one in levels(3600.0, 1.0)} == {86_400}


@settings(deadline=None)
@given(st.integers(0, 399), st.integers(1, 200))
def test_a_range_between_panes_is_covered_whole_without_overlap(first, length):
    begin, end = 10 * first, 10 * min(first + length, 400)
    chosen = cover(pyramid(4000), begin, end)
    assert covered(chosen) == set(range(begin, end))
    assert sum(pane.span for pane in chosen) == len(covered(chosen))
    assert [pane.start for pane in chosen] == sorted(pane.start for pane in chosen)


def test_a_long_range_is_covered_by_few_panes():
    chosen = cover(pyramid(3600), 590, 3010)
    assert [(pane.start, pane.span) for pane in chosen] == [
        (590, 10),
        (600, 600),
        (1200, 600),
        (1800, 600),
        (2400, 600),
        (3000, 10),
    ]


def test_a_range_that_cuts_a_pane_takes_the_shortest_that_reaches_out():
    assert cover(pyramid(600), 5, 8) == [Span(0, 10)]


@settings(deadline=None)
@given(st.integers(60, 5000), st.integers(1, 100))
def test_columns_are_at_most_as_many_as_asked_for_and_never_overlap(seconds, most):
    chosen = columns(pyramid(seconds), 0, seconds, most)
    assert 0 < len(chosen) <= most
    assert sum(pane.span for pane in chosen) == len(covered(chosen))


def test_columns_are_as_fine_as_is_kept():
    kept = [pane for pane in pyramid(1200) if pane.span > 10 or pane.start >= 1140]
    spans = [pane.span for pane in columns(kept, 0, 1200, 100)]
    assert spans == [60] * 19 + [10] * 6
