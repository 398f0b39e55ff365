import hashlib
from dataclasses import replace

import numpy as np
import pytest

from sidecar.drift import Reference, ReferenceBuilder
from sidecar.errors import BaselineError
from sidecar.sketch import RequestRows, TapSketch
from sidecar.types import Tap


@pytest.fixture
def reference(traffic, taps):
    builder = ReferenceBuilder("digits", "1", taps, 30)
    while not builder.complete:
        builder.add(traffic.reading(8))
    return builder.build()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "digits.baseline"


def test_a_reference_is_complete_with_the_reading_that_brings_enough(traffic, taps):
    builder = ReferenceBuilder("digits", "1", taps, 10)
    builder.add(traffic.reading(6))
    assert not builder.complete
    builder.add(traffic.reading(6))
    assert builder.complete
    assert builder.requests == builder.build().requests == 12


def test_a_reference_of_nothing_is_refused(taps):
    with pytest.raises(BaselineError, match="needs requests"):
        ReferenceBuilder("digits", "1", taps, 10).build()


def test_its_sketches_are_the_merge_of_its_readings(traffic, taps):
    readings = [traffic.reading(5) for _ in range(3)]
    builder = ReferenceBuilder("digits", "1", taps, 15)
    expected = TapSketch.empty(taps[0].channels)
    for reading in readings:
        builder.add(reading)
        expected.merge(reading.sketches[taps[0]])
    assert builder.build().sketches[0] == expected
    assert builder.build().created_at == readings[-1].at


def test_save_and_load_bring_back_everything(reference, path):
    reference.save(path)
    loaded = Reference.load(path)
    assert (loaded.model, loaded.version, loaded.created_at) == ("digits", "1", reference.created_at)
    assert loaded.taps == reference.taps
    assert loaded.sketches == reference.sketches
    assert np.array_equal(
        [(tap.mean, tap.level) for tap in loaded.nodrift],
        [(tap.mean, tap.level) for tap in reference.nodrift],
        equal_nan=True,
    )
    assert np.array_equal(loaded.rows, reference.rows)
    assert np.array_equal(loaded.weights, reference.weights)
    assert np.array_equal(loaded.groups.routes, reference.groups.routes)
    assert np.array_equal(loaded.common, reference.common)


def test_saving_replaces_the_old_file_and_leaves_nothing_else(reference, path):
    path.write_bytes(b"old")
    reference.save(path)
    assert Reference.load(path).model == "digits"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_named(reference, tmp_path):
    with pytest.raises(BaselineError, match=r"cannot write the baseline .*nowhere"):
        reference.save(tmp_path / "nowhere" / "digits.baseline")


def test_a_missing_file_is_named(path):
    with pytest.raises(BaselineError, match=r"cannot read the baseline .*digits\.baseline"):
        Reference.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 an archive", b"sidecar-baseline"])
def test_a_foreign_file_is_no_baseline(content, path):
    path.write_bytes(content)
    with pytest.raises(BaselineError, match="is not a baseline"):
        Reference.load(path)


def test_another_format_version_is_named(reference, path):
    reference.save(path)
    stored = bytearray(path.read_bytes())
    stored[16] = 7
    path.write_bytes(stored)
    with pytest.raises(BaselineError, match="baseline format 7, supported is 5"):
        Reference.load(path)


@pytest.mark.parametrize("place", [20, 60, 500, -1])
def test_a_changed_byte_is_found(place, reference, path):
    reference.save(path)
    stored = bytearray(path.read_bytes())
    stored[place] ^= 1
    path.write_bytes(stored)
    with pytest.raises(BaselineError, match="damaged"):
        Reference.load(path)


def test_a_file_cut_short_is_found(reference, path):
    reference.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BaselineError, match="damaged"):
        Reference.load(path)


def test_whole_bytes_that_are_no_archive_are_damage(path):
    path.write_bytes(b"sidecar-baseline\x05" + hashlib.sha256(b"text").digest() + b"text")
    with pytest.raises(BaselineError, match="damaged"):
        Reference.load(path)


def test_another_version_of_the_model_may_be_compared(reference, taps):
    replace(reference, version="2").check("digits", taps)


def test_another_model_is_refused(reference, taps):
    with pytest.raises(BaselineError, match="recorded from model digits, not letters"):
        reference.check("letters", taps)


def test_other_taps_are_refused_by_name(reference, taps):
    extra = Tap(9, "resid", "blocks.9", 4)
    with pytest.raises(BaselineError, match="has no tap 9/resid"):
        reference.check("digits", [*taps, extra])
    with pytest.raises(BaselineError, match="has tap 2/resid, which is not watched"):
        reference.check("digits", taps[:2])


def test_another_width_is_refused(reference, taps):
    with pytest.raises(BaselineError, match="tap 0/resid has 8 channels, in the baseline 4"):
        reference.check("digits", [replace(taps[0], channels=8), *taps[1:]])


def test_taps_in_another_order_are_put_in_order(reference, taps):
    turned = reference.arranged(taps[::-1])
    assert turned.taps == taps[::-1]
    assert turned.sketches[0] == reference.sketches[2]
    assert np.array_equal(turned.rows[0], reference.rows[2])


def test_a_reference_counts_the_commonly_sampled_requests_and_keeps_all_with_their_weights(traffic, taps):
    reading = traffic.reading(6)
    weights, common = np.arange(1.0, 7.0), np.arange(6) != 2
    rows = {tap: RequestRows(part.values, weights, common) for tap, part in reading.rows.items()}
    builder = ReferenceBuilder("digits", "1", taps, 10)
    builder.add(replace(reading, rows=rows))
    reference = builder.build()
    assert builder.requests == reference.requests == 5
    assert reference.weights.tolist() == [1, 2, 3, 4, 5, 6]
    assert reference.common.tolist() == common.tolist()
    assert reference.sketches[0].counts.requests == 6
