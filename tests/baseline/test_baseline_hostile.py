"""Baselines that somebody wrote to do harm: with a right checksum, and all else as they please."""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import warnings
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.baseline import tables
from sidecar.console import comparisons, layers
from sidecar.console.elsewhere import Place
from sidecar.console.questions import CompareQuestion, HistogramQuestion, LayerQuestion, NeuronsQuestion
from sidecar.console.scope import Scope
from sidecar.drift import Reference, ReferenceBuilder
from sidecar.drift.arrays import MOST_BYTES, unpacked
from sidecar.drift.comparison import compare
from sidecar.drift.sealed import Sealed
from sidecar.errors import BaselineError, SidecarError
from sidecar.timeline import History
from tests.drift.conftest import TAPS, Traffic

PREFIX = b"sidecar-baseline\x05"


def sealed(archive):
    return PREFIX + hashlib.sha256(archive).digest() + archive


def archived(members):
    """members: name -> the bytes of a .npy file, or an array."""
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(f"{name}.npy", member if isinstance(member, bytes) else stored(member))
    return payload.getvalue()


def stored(array):
    payload = io.BytesIO()
    np.lib.format.write_array(payload, np.asarray(array), version=(1, 0))
    return payload.getvalue()


def built():
    traffic, builder = Traffic(), ReferenceBuilder("digits", "1", TAPS, 30)
    while not builder.complete:
        builder.add(traffic.reading(8))
    return builder.build()


SOUND = built()
MEMBERS = SOUND.members()
ARCHIVE = SOUND.to_bytes()[len(PREFIX) + 32 :]
HEADER = json.loads(MEMBERS["header"].tobytes())


def survives(stored_bytes):
    """Refused as a BaselineError, or a reference that can be shown and compared everywhere."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            reference = Reference.from_bytes(stored_bytes, "it")
        except BaselineError as error:
            return str(error)
        tables.summary(reference)
        tables.layers(reference)
        for sides in ((SOUND, reference), (reference, SOUND)):
            with suppress(BaselineError):
                tables.differences(compare(*sides))
        asked_of(reference)
    return None


def asked_of(reference):
    """What the console answers of it."""
    loaded = {Place("baseline:a"): reference, Place("baseline:b"): SOUND}
    with History(None, dict).open() as recall:
        scope = Scope(recall, (), None, 1, lambda: 0.0, loaded, ("baseline:a", "baseline:b"))
        tap = {"layer": reference.taps[0].layer, "site": reference.taps[0].site, "source": "baseline:a"}
        with suppress(SidecarError):
            layers.layer(scope, LayerQuestion(**tap)).model_dump_json()
            layers.histogram(scope, HistogramQuestion(**tap)).model_dump_json()
            layers.neurons(scope, NeuronsQuestion(**tap)).model_dump_json()
            for sides in (("baseline:a", "baseline:b"), ("baseline:b", "baseline:a")):
                question = CompareQuestion(source=sides[0], other_source=sides[1])
                comparisons.compare(scope, question).model_dump_json()


def test_a_sound_baseline_can_be_shown_and_compared():
    assert survives(sealed(ARCHIVE)) is None
    assert survives(sealed(archived(MEMBERS))) is None


@given(st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_under_a_right_checksum_are_one_kind_of_error(flips):
    archive = bytearray(ARCHIVE)
    for place, bits in flips:
        archive[place] ^= bits
    survives(sealed(bytes(archive)))


@given(st.integers(0, len(ARCHIVE)), st.binary(max_size=40))
def test_an_archive_cut_short_or_with_another_end_is_one_kind_of_error(keep, end):
    survives(sealed(ARCHIVE[:keep] + end))


@given(st.integers(0, len(ARCHIVE) + 49))
def test_a_file_cut_short_is_one_kind_of_error(keep):
    survives(sealed(ARCHIVE)[:keep])


@given(
    st.sampled_from(sorted(MEMBERS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes_of_an_array_are_one_kind_of_error(name, flips):
    member = bytearray(stored(MEMBERS[name]))
    for place, bits in flips:
        member[place % len(member)] ^= bits
    survives(sealed(archived({**MEMBERS, name: bytes(member)})))


SKETCH = MEMBERS["sketch0"].tobytes()


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SKETCH) // 8 - 2),
            st.sampled_from(
                [
                    -1,
                    1,
                    2**62,
                    2**63 - 1,
                    -(2**63),
                    *(np.array([-1e308, 1e308, np.nan, np.inf, -np.inf]).view(np.int64).tolist()),
                ]
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_another_number_in_a_sketch_with_a_right_checksum_is_one_kind_of_error(changes):
    sketch = bytearray(SKETCH[:-4])
    for place, number in changes:
        struct.pack_into("<q", sketch, 10 + 8 * place, number)
    sketch += struct.pack("<I", zlib.crc32(sketch))
    survives(sealed(archived({**MEMBERS, "sketch0": np.frombuffer(bytes(sketch), np.uint8)})))


ARRAYS = st.one_of(
    st.sampled_from(
        [np.float64, np.float32, np.int64, np.uint8, np.bool_, np.complex128, "U3", "S3", "M8[s]", "O"]
    ).flatmap(
        lambda kind: st.lists(st.integers(0, 4), max_size=3).map(lambda shape: np.ones(shape).astype(kind))
    ),
    st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e59, -1e59, 1e308, -1e308]).flatmap(
        lambda value: st.sampled_from(sorted(MEMBERS)).map(lambda name: (np.ones(1) * value, name))
    ),
)


@given(st.sampled_from(sorted(MEMBERS)), ARRAYS)
def test_another_array_in_the_place_of_one_is_one_kind_of_error(name, given_array):
    if isinstance(given_array, tuple):
        value, name = given_array
        with np.errstate(all="ignore"):
            given_array = np.broadcast_to(value, MEMBERS[name].shape).astype(MEMBERS[name].dtype)
    if given_array.dtype.hasobject:
        payload = io.BytesIO()
        np.lib.format.write_array(payload, given_array, allow_pickle=True)
        given_array = payload.getvalue()
    survives(sealed(archived({**MEMBERS, name: given_array})))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*HEADER, "channels", "layer", "site", "module", ""]), JSON)
@example("created_at", 1e300)
@example("model", "\x1b]0;title\x07")
@example("model", "[/markup]")
@example("taps", [])
@example("taps", HEADER["taps"] * 2)
@example("channels", 2**70)
def test_another_header_is_one_kind_of_error(field, value):
    header = json.loads(json.dumps(HEADER))
    if field in HEADER:
        header[field] = value
    elif field:
        header["taps"][0][field] = value
    else:
        header = value
    survives(sealed(archived({**MEMBERS, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})))


@pytest.mark.parametrize("header", [b"", b"[" * 100_000, b"\xff\xfe", b'{"model": 1}' * 2])
def test_a_header_that_is_no_json_is_named(header):
    assert "header" in survives(sealed(archived({**MEMBERS, "header": np.frombuffer(header, np.uint8)})))


def test_an_archive_that_unpacks_to_more_than_is_read_is_refused_before_it_is_unpacked():
    bomb = archived({"rows": np.zeros(10**6)})
    assert len(bomb) < 10**4
    with pytest.raises(ValueError, match="holds 8,000,128 bytes unpacked, at most 1,000,000 are read"):
        unpacked(bomb, 10**6)


def test_an_archive_cannot_unpack_to_more_than_it_says():
    bomb = bytearray(archived({"rows": np.zeros(10**5)}))
    directory = bomb.rindex(b"PK\x01\x02")
    struct.pack_into("<I", bomb, directory + 24, 200)
    with pytest.raises(ValueError, match="no whole archive"):
        unpacked(bytes(bomb))


def test_an_array_that_claims_to_be_larger_than_it_is_takes_no_memory():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }\n"
    claimed = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    said = survives(sealed(archived({**MEMBERS, "rows": claimed})))
    assert "array rows has 8 bytes, which <f8 of shape (99999999999,) has not" in said


@pytest.mark.parametrize("name", ["header", "rows", "weights", "sketch0"])
def test_a_missing_array_is_named(name):
    left = {other: array for other, array in MEMBERS.items() if other != name}
    assert f"it has no '{name}'" in survives(sealed(archived(left)))


def test_a_whitening_without_an_inverse_is_named():
    flat = {"centres": np.zeros((3, 2), np.float32), "whitening": np.zeros((3, 2, 2), np.float32)}
    assert "whitening has no inverse" in survives(sealed(archived({**MEMBERS, **flat})))


def test_what_would_be_too_large_to_be_read_is_not_written():
    class Huge:
        nbytes = MOST_BYTES + 1

    with pytest.raises(BaselineError, match="is too large"):
        Sealed("baseline", b"magic", 1).seal({"rows": Huge()})
