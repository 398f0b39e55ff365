import re
from pathlib import Path

import pytest

from sidecar.errors import ConfigError, StoreError
from sidecar.timeline.parquet import column_kinds, export
from tests.timeline.conftest import PAIR, START, SUBJECT, make_pane

pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
DOCS = Path(__file__).parent.parent.parent / "docs" / "store.md"


@pytest.fixture
def exported(store, path, tmp_path):
    """Eight panes of ten seconds, which make one of a minute, and a step; written as Parquet."""
    for i in range(8):
        store.write(SUBJECT, make_pane(START + 10 * i), {}, START + 10 * i)
    store.write(SUBJECT, make_pane(30_000, span=0.0), {}, START)

    def exported(begin=None, end=None, *, channels=False):
        out = tmp_path / "panes.parquet"
        return out, export(path, begin, end, out, channels=channels)

    return exported


def test_duckdb_reads_what_the_panes_hold(exported):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    out, written = exported(channels=True)
    query = "SELECT start, step, layer, positions, mean, kurtosis, channel_mean, histogram_count FROM '{}'"
    rows = duckdb.sql(query.format(out)).fetchall()
    assert len(rows) == written == 2 * 9
    for start, step, layer, positions, mean, kurtosis, channel_mean, histogram in rows:
        sketch = make_pane(step if start is None else start).sketches[PAIR[layer]]
        assert positions == sketch.counts.positions == 25
        assert mean == sketch.moments.mean
        assert kurtosis == sketch.moments.kurtosis
        assert channel_mean == pytest.approx(sketch.channels.mean, rel=2**-15)
        assert sum(histogram) == sketch.histogram.total
    total = duckdb.sql(f"SELECT sum(values) FROM '{out}' WHERE step IS NULL AND layer = 0").fetchall()
    assert total == [(8 * 25 * 5,)]


def test_a_range_holds_the_panes_that_touch_it(exported):
    assert exported(START + 25, START + 40)[1] == 2 * (2 + 1)


def test_the_columns_are_those_that_the_docs_name(exported):
    from pyarrow.parquet import read_schema

    out, _ = exported(channels=True)
    documented = re.findall(r"^\| `(\w+)`", DOCS.read_text().split("## Parquet")[1].split("\n## ")[0], re.M)
    assert read_schema(out).names == list(column_kinds(channels=True))
    assert set(documented) == set(column_kinds(channels=True))


def test_lists_of_channels_are_written_when_asked_for(exported):
    from pyarrow.parquet import read_schema

    out, _ = exported()
    assert read_schema(out).names == list(column_kinds(channels=False))


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        export(tmp_path / "nowhere.db", None, None, tmp_path / "out.parquet", channels=False)


def test_a_file_that_cannot_be_written_is_named(store, path, tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        export(path, None, None, tmp_path / "nowhere" / "out.parquet", channels=False)
