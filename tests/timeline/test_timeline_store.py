import sqlite3
import stat

import numpy as np
import pytest

from sidecar.errors import SketchError, StoreError
from sidecar.sketch import TapSketch, compact
from sidecar.timeline import History, Retention, Store, Subject
from sidecar.timeline.levels import cover
from tests.timeline.conftest import PAIR, RETENTION, START, SUBJECT, make_pane

HOUR = 3600.0


def write(store, *starts, given=None):
    for start in starts:
        store.write(SUBJECT, make_pane(start), given or {}, start + 10)


def recall(path, read):
    with History(path, dict).open() as found:
        return read(found)


def spans(path):
    return recall(path, lambda found: [(pane.span, pane.start) for pane in found.panes("digits", "1")])


def merged(path, tap, begin=-1e18, end=1e18):
    def read(found):
        panes = cover(found.panes("digits", "1", begin, end), begin, end)
        return found.merged(panes, tap)

    return recall(path, read)


def same(seen, expected):
    """Equal but for what keeping rounds."""
    assert seen.counts == expected.counts
    assert np.array_equal(seen.histogram.counts, expected.histogram.counts)
    assert seen.moments.m4 == pytest.approx(expected.moments.m4, rel=1e-9)
    assert np.array_equal(seen.channels.fires, expected.channels.fires)
    assert np.allclose(seen.channels.mean, expected.channels.mean, rtol=2**-13, atol=2**-13)
    assert np.allclose(seen.channels.variance, expected.channels.variance, rtol=2**-5)
    assert np.allclose(seen.channels.absmax, expected.channels.absmax, rtol=2**-7)


def expected(tap, starts):
    whole = TapSketch.empty(tap.channels)
    for start in starts:
        whole.merge(make_pane(start).sketches[tap])
    return whole


def test_any_range_is_the_merge_of_its_panes_whatever_spans_they_have(store, path):
    starts = [START + 10 * i for i in range(170)]
    write(store, *starts)
    for begin, end in ((0, 170), (3, 167), (60, 120), (17, 18), (5, 66)):
        for tap in PAIR:
            seen = merged(path, tap, START + 10 * begin, START + 10 * end)
            same(seen, expected(tap, starts[begin:end]))


def test_a_coarser_pane_is_there_as_soon_as_its_time_is_over(store, path):
    write(store, *(START + 10 * i for i in range(5)))
    assert {span for span, _ in spans(path)} == {10}
    write(store, START + 50)
    assert (60, START) in spans(path)


def test_a_process_that_was_away_rolls_up_what_it_left(path, store):
    write(store, START, START + 10)
    store.close()
    later = Store(path, RETENTION)
    write(later, START + 2 * HOUR)
    later.close()
    assert {(60, START), (600, START), (3600, START)} <= set(spans(path))


def test_fine_panes_go_when_they_are_old_and_levels_join_without_a_gap(store, path):
    write(store, *(START + 10 * i for i in range(400)))
    found = spans(path)
    fine = [start for span, start in found if span == 10]
    assert min(fine) % 60 == 0
    assert 1790 <= START + 4000 - min(fine) <= 1870
    assert {start for span, start in found if span == 60} >= {START + 60 * i for i in range(60)}


def test_nothing_is_older_than_keep_days(path):
    brief = Store(path, Retention(10.0, 0.5, 100.0))
    write(brief, START, START + 6 * HOUR, START + 13 * HOUR, START + 14 * HOUR)
    brief.close()
    assert min(start for _, start in spans(path)) >= START + HOUR


def test_panes_of_another_pane_seconds_are_read_and_go_with_age(path, store):
    store.write(SUBJECT, make_pane(START, span=7.0), {}, START)
    assert merged(path, PAIR[0]).counts.requests == 25
    write(store, START + 8 * 86_400)
    assert all(span != 7 for span, _ in spans(path))


def test_a_pane_that_was_begun_before_a_restart_is_completed(store, path):
    write(store, START, START)
    assert spans(path) == [(10, START)]
    same(merged(path, PAIR[0]), expected(PAIR[0], [START, START]))


def test_a_pane_that_comes_late_is_in_the_coarse_ones_too(store, path):
    write(store, *(START + 10 * i for i in range(6)))
    write(store, START + 20)
    whole = merged(path, PAIR[0], START, START + 60)
    assert whole.counts.requests == 7 * 25


def test_a_training_step_is_replaced_when_it_is_written_again(store, path):
    for step in (30_000, 10_000, 30_000):
        store.write(SUBJECT, make_pane(step, span=0.0), {}, START)
    steps = recall(path, lambda found: [pane.start for pane in found.steps("digits", "1")])
    assert steps == [10_000, 30_000]
    assert spans(path) == []


def test_statistics_of_a_pane_are_read_without_its_sketches(store, path):
    write(store, START, given={"evidence": np.array([1.5, 2.5])})
    store._connection.execute("DELETE FROM sketch")

    def read(found):
        panes = found.panes("digits", "1")
        return {name: found.values(panes, PAIR, name) for name in ("mean", "kurtosis", "evidence")}

    values = recall(path, read)
    assert values["evidence"].tolist() == [[1.5], [2.5]]
    for row, tap in enumerate(PAIR):
        moments = make_pane(START).sketches[tap].moments
        assert values["mean"][row, 0] == moments.mean
        assert values["kurtosis"][row, 0] == moments.kurtosis


def test_a_coarse_pane_has_the_largest_evidence_of_its_panes(store, path):
    for i in range(6):
        write(store, START + 10 * i, given={"evidence": np.array([float(i == 3), -1.0])})

    def read(found):
        panes = [pane for pane in found.panes("digits", "1") if pane.span == 60]
        return found.values(panes, PAIR, "evidence").tolist()

    assert recall(path, read) == [[1.0], [-1.0]]


def test_models_versions_and_other_taps_are_kept_apart(store, path):
    others = (
        Subject("digits", "2", PAIR),
        Subject("other", "1", PAIR),
        Subject("digits", "1", PAIR[:1]),
    )
    for subject in (SUBJECT, *others):
        store.write(subject, make_pane(START), {}, START)
    assert recall(path, lambda found: set(found.subjects())) == {SUBJECT, *others}
    assert recall(path, lambda found: len(found.panes("digits", "1"))) == 2


def test_the_file_never_grows_beyond_max_megabytes(path):
    small = Store(path, Retention(10.0, 7.0, 0.3))
    write(small, *(START + 10 * i for i in range(700)))
    assert path.stat().st_size <= 300_000
    small.close()
    kept = {}
    for span, start in spans(path):
        kept.setdefault(span, []).append(start)
    assert set(kept) == {10, 60, 600, 3600}
    assert max(kept[10]) == START + 6990


def test_only_its_owner_may_read_the_file(store, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_database_of_something_else_is_left_alone(path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match="is no store of panes"):
        Store(path, RETENTION)


def test_a_store_of_another_format_is_refused(store, path):
    store._connection.execute("PRAGMA user_version = 9")
    with pytest.raises(SketchError, match="format 9, supported is 1"):
        Store(path, RETENTION)


def test_a_damaged_sketch_is_told_to_whoever_writes(store, path):
    write(store, START)
    store._connection.execute("UPDATE sketch SET body = CAST(x'00' || substr(body, 2) AS BLOB)")
    told = []
    history = History(path, dict, told.append)
    with pytest.raises(StoreError, match="is damaged"), history.open() as found:
        found.merged(found.panes("digits", "1"), PAIR[0])
    assert len(told) == 1


def test_what_is_let_go_while_one_reads_can_still_be_read(store, path):
    write(store, START)
    with History(path, dict).open() as found:
        panes = found.panes("digits", "1")
        write(store, START + 9 * 86_400)
        assert found.values(panes, PAIR, "mean").shape == (2, 1)
        assert found.merged(panes, PAIR[0]).counts.requests == 25
    assert [start for _, start in spans(path)] == [START + 9 * 86_400]


def test_a_write_that_fails_changes_nothing(store, path, monkeypatch):
    write(store, START)
    monkeypatch.setattr(compact, "pack", lambda sketch: None)
    with pytest.raises((TypeError, sqlite3.Error)):
        write(store, START + 10)
    monkeypatch.undo()
    write(store, START + 20)
    assert spans(path) == [(10, START), (10, START + 20)]
