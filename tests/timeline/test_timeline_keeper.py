import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from sidecar.timeline import History, Keeper, Retention, Store
from sidecar.timeline.keeper import KEPT_ASIDE, WAITING
from tests.timeline.conftest import PAIR, RETENTION, START, SUBJECT, make_pane

DAY = 86_400.0


@pytest.fixture
def keep(path):
    """Write panes by a keeper of its own, and say how it fared."""

    def keep(*panes, now=START, before=lambda keeper: None):
        keeper = Keeper(path, RETENTION, lambda: now)
        before(keeper)
        keeper.start()
        for pane in panes:
            keeper.put(SUBJECT, pane, {})
        keeper.stop(60)
        return keeper.status()

    return keep


def starts(path):
    with History(path, dict).open() as found:
        return sorted({pane.start for pane in found.panes("digits", "1")})


def aside(path):
    return sorted(file.name for file in path.parent.glob("*.aside"))


def test_what_is_put_is_written(keep, path):
    status = keep(make_pane(START), make_pane(START + 10))
    assert starts(path) == [START, START + 10]
    assert (status.panes, status.dropped, status.detail) == (2, 0, "")
    assert status.bytes > 0
    assert status.seconds > 0


def test_a_second_run_goes_on_where_the_first_ended(keep, path):
    keep(make_pane(START))
    keep(make_pane(START + 10))
    assert starts(path) == [START, START + 10]
    assert aside(path) == []


def test_a_full_queue_drops_and_counts_and_never_waits(path):
    keeper = Keeper(path, RETENTION, lambda: START)
    for i in range(WAITING + 3):
        keeper.put(SUBJECT, make_pane(START + 10 * i), {})
    assert keeper.status().dropped == 3


@pytest.mark.parametrize("damage", [b"this is not a database", b"", None])
def test_a_file_that_is_damaged_is_set_aside_and_a_new_one_begun(keep, path, damage):
    keep(*(make_pane(START + 10 * i) for i in range(8)))
    if damage is None:
        whole = bytearray(path.read_bytes())
        whole[4096 : 4096 + 512 * 20] = bytes(512 * 20)
        damage = bytes(whole)
    path.write_bytes(damage)
    status = keep(make_pane(START + 80), make_pane(START + 90), now=START + 90)
    assert starts(path)[-2:] == [START + 80, START + 90]
    assert status.dropped == 0
    if damage:
        assert status.set_aside == 1
        assert aside(path) == [f"{path.name}.{START + 90:.0f}.aside"]


def test_damage_that_a_reader_found_sets_the_store_aside(keep, path):
    keep(make_pane(START))
    status = keep(make_pane(START + 10), before=lambda keeper: keeper.report("its checksum differs"))
    assert (status.set_aside, status.panes, starts(path)) == (1, 1, [START + 10])


def steps(path):
    with History(path, dict).open() as found:
        return [
            (pane.start, found.merged([pane], PAIR[0]).counts.requests) for pane in found.steps("digits", "1")
        ]


def test_a_clock_that_jumps_back_sets_the_store_aside(keep, path):
    keep(make_pane(START))
    status = keep(make_pane(START - 30 * DAY), now=START - 30 * DAY)
    assert (status.set_aside, status.panes, starts(path)) == (1, 1, [START - 30 * DAY])


def test_a_pause_of_any_length_sets_nothing_aside_and_lets_old_panes_go(keep, path, caplog):
    keep(make_pane(START))
    status = keep(make_pane(START + 30 * DAY), now=START + 30 * DAY)
    assert (status.set_aside, status.panes, starts(path), aside(path)) == (0, 1, [START + 30 * DAY], [])
    assert "nothing was kept for 2592000 s" in caplog.text


@pytest.mark.parametrize("jump", [-30 * DAY, 30 * DAY])
def test_training_steps_stay_whatever_the_clock_does(keep, path, jump):
    keep(make_pane(START), make_pane(1000.0, span=0.0, requests=7), make_pane(2000.0, span=0.0))
    for times in (1, 2, 3):
        keep(make_pane(START + times * jump), now=START + times * jump)
    assert steps(path) == [(1000.0, 7), (2000.0, 25)]


def test_a_clock_that_is_set_back_a_little_is_no_jump(keep, path):
    keep(make_pane(START))
    assert keep(make_pane(START - 600)).set_aside == 0
    assert starts(path) == [START - 600, START]


def test_few_stores_stay_aside(keep, path):
    for day in range(5):
        keep(make_pane(START - 30 * day * DAY), now=START - 30 * day * DAY)
    assert len(aside(path)) == KEPT_ASIDE


def test_a_folder_that_is_not_there_loses_panes_and_nothing_else(path):
    keeper = Keeper(path / "nowhere" / "panes.db", RETENTION, lambda: START)
    keeper.start()
    for i in range(3):
        keeper.put(SUBJECT, make_pane(START + 10 * i), {})
    keeper.stop(60)
    assert (keeper.status().panes, keeper.status().dropped, keeper.status().set_aside) == (0, 3, 0)
    assert "panes are not kept" in keeper.status().detail


def test_a_database_of_something_else_is_never_renamed(keep, path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.close()
    status = keep(make_pane(START))
    assert (status.dropped, status.set_aside, aside(path)) == (1, 0, [])


def test_a_store_too_small_for_one_pane_drops_it_and_goes_on(path):
    keeper = Keeper(path, Retention(10.0, 7.0, 0.02), lambda: START)
    keeper.start()
    keeper.put(SUBJECT, make_pane(START), {})
    keeper.stop(60)
    assert (keeper.status().dropped, keeper.status().set_aside) == (1, 0)
    assert "full" in keeper.status().detail


WRITER = """
import sys
from pathlib import Path
from sidecar.timeline import Keeper
from tests.timeline.conftest import RETENTION, START, SUBJECT, make_pane

keeper = Keeper(Path(sys.argv[1]), RETENTION, lambda: START)
keeper.start()
number = 0
while True:
    waiting = keeper.status().panes
    keeper.put(SUBJECT, make_pane(START + 10 * number), {})
    while keeper.status().panes == waiting:
        pass
    number += 1
    print(number, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing_that_was_closed(path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        for line in writer.stdout:
            if int(line) == 25:
                break
        os.kill(writer.pid, signal.SIGKILL)
    finally:
        writer.wait(60)
        writer.stdout.close()
    found = starts(path)
    assert found[:25] == [START + 10 * i for i in range(25)]
    store = Store(path, RETENTION)
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


LIMITED = """
import resource, sys
from pathlib import Path
from sidecar.timeline import Keeper
from tests.timeline.conftest import RETENTION, START, SUBJECT, make_pane

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
keeper = Keeper(Path(sys.argv[1]), RETENTION, lambda: START)
keeper.start()
for number in range(10):
    before = keeper.status()
    keeper.put(SUBJECT, make_pane(START + 10 * number), {})
    while keeper.status().panes + keeper.status().dropped == before.panes + before.dropped:
        pass
keeper.stop(60)
status = keeper.status()
print(status.panes, status.dropped, status.set_aside)
"""


def test_a_file_that_may_not_grow_is_set_aside_and_a_new_one_begun(path):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    panes, dropped, set_aside = map(int, run.stdout.split())
    assert panes + dropped == 10
    assert panes > 0
    assert set_aside > 0
    assert starts(path)


def test_a_reader_of_a_file_that_is_no_store_is_told_and_sees_what_is_in_memory(path):
    path.write_bytes(b"x" * 5000)
    told = []
    with History(path, dict, told.append).open() as found:
        assert found.subjects() == []
    assert len(told) == 1
