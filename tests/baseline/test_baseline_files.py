"""Baselines on the command line: shown, compared, exported and imported."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from sidecar.baseline.interchange import from_json, to_json
from sidecar.cli import app
from sidecar.drift import Reference
from sidecar.drift.comparison import by_effect, compare
from sidecar.errors import BaselineError
from sidecar.sketch import OutputRows
from tests.drift.conftest import TAPS


def run(*arguments):
    outcome = CliRunner().invoke(app, ["baseline", *map(str, arguments)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.fixture
def files(recorded, tmp_path):
    paths = tmp_path / "a.baseline", tmp_path / "b.baseline"
    for path, shift in zip(paths, (0.0, 1.0), strict=True):
        recorded(version=path.stem, seed=1, shift=shift).save(path)
    return paths


def test_show_prints_every_tap(files):
    shown = run("show", files[0])
    assert "digits version a, recorded 1970-01-01 00:16:56 UTC; 80 requests, 3 taps" in shown
    assert [line.split()[0] for line in shown.splitlines()[-3:]] == ["0/resid", "1/resid", "2/resid"]


def test_a_name_in_a_baseline_is_no_markup(recorded, tmp_path):
    recorded(model="[/red]").save(tmp_path / "a.baseline")
    assert "[/red] version 1" in run("show", tmp_path / "a.baseline")


def test_compare_lists_the_layers_by_effect(files):
    listed = run("compare", *files)
    assert listed.splitlines()[0].startswith("A: digits version a")
    rows = [line.split() for line in listed.splitlines()[-3:]]
    assert rows[0][0] == "1/resid"
    assert float(rows[0][1]) > 1 > max(float(row[1]) for row in rows[1:])


def test_a_baseline_does_not_differ_from_itself(recorded):
    reference = recorded()
    for layer in compare(reference, reference):
        assert layer.effects.times_level < 1e-5
        assert layer.effects.psi < 0 < layer.effects.levels["psi"]
        assert all(shift == 0 for _, shift in layer.channels)


def test_taps_may_come_in_any_order(recorded):
    first, second = recorded(seed=1), recorded(seed=2)
    assert compare(first, second) == compare(first, second.arranged(TAPS[::-1]))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "letters"}, "was recorded from model letters, not digits"),
        ({"taps": TAPS[:2]}, "the baseline has no tap 2/resid"),
        ({"stratify_by": "route"}, "is stratified by 'route'"),
    ],
)
def test_what_cannot_be_compared_is_named(recorded, other, message):
    with pytest.raises(BaselineError, match=message):
        compare(recorded(), recorded(**other))


def test_layers_without_any_known_size_come_last(recorded):
    first = recorded()
    for one in (first, second := recorded(shift=1.0)):
        unknown = type(one.nodrift[0]).unknown()
        object.__setattr__(one, "nodrift", (one.nodrift[0], unknown, one.nodrift[2]))
    assert [layer.tap.layer for layer in by_effect(compare(first, second))][-1] == 1


def test_export_and_import_bring_back_every_bit(files, tmp_path):
    run("export", files[0], tmp_path / "a.json")
    run("import", tmp_path / "a.json", tmp_path / "again.baseline")
    first, again = Reference.load(files[0]), Reference.load(tmp_path / "again.baseline")
    assert first.members().keys() == again.members().keys()
    for name, array in first.members().items():
        assert np.array_equal(array, again.members()[name], equal_nan=array.dtype.kind == "f"), name


def test_numbers_that_json_does_not_have_come_back(recorded, tmp_path):
    reference = recorded()
    reference.rows[0, 0] = [math.nan, math.inf, -math.inf, 0, 1e-300, 2]
    outputs = OutputRows(*np.full((2, 80), math.inf), np.arange(80), np.zeros((80, 2)))
    object.__setattr__(reference, "outputs", outputs)
    path = tmp_path / "a.json"
    path.write_text(to_json(reference))
    again = from_json(path)
    assert np.array_equal(again.rows, reference.rows, equal_nan=True)
    assert np.isinf(again.outputs.energy).all()
    assert again.sketches == reference.sketches


def test_the_export_can_be_read_without_this_program(recorded):
    read = json.loads(to_json(recorded()))
    assert (read["format"], read["version"], read["header"]["model"]) == (
        "sidecar-baseline-json",
        3,
        "digits",
    )
    sketch = read["sketches"][0]
    assert sum(sketch["histogram"].values()) == sketch["counts"]["values"] == 80 * 8 * 4
    assert len(sketch["channels"]["fires"]) == 4


DAMAGE = [
    (lambda read: read.update(format="x"), "its format must be 'sidecar-baseline-json'"),
    (lambda read: read.update(version=1), "has JSON version 1, supported is 3"),
    (lambda read: read.pop("header"), "is not a whole baseline: KeyError"),
    (lambda read: read["sketches"].pop(), "is not a whole baseline"),
    (lambda read: read["sketches"][0]["channels"]["fires"].pop(), "channel arrays differ in shape"),
    (lambda read: read["arrays"]["weights"].update(shape=[3]), "cannot reshape"),
    (lambda read: read["arrays"]["weights"].update(dtype="|O"), "cannot be of"),
    (
        lambda read: read["arrays"]["common"].update(shape=[1, 80]),
        "common is b1 \\(1, 80\\), must be b1 \\(80,\\)",
    ),
    (lambda read: read["header"]["taps"][0].update(channels=5), "0/resid has 4 channels, must have 5"),
    (lambda read: read["sketches"][0]["histogram"].update({"9999": 1}), "out of bounds"),
    (lambda read: read["sketches"][0]["counts"].update(zeros=2**70), "is not a whole baseline: error"),
    (lambda read: read["sketches"][0]["counts"].update(zeros=-1), "counts less than nothing"),
    (lambda read: read["sketches"][0]["moments"].update(n="nan"), "is not a whole baseline"),
    (lambda read: read["arrays"]["labels"].update(dtype="<U9999999999"), "cannot be of"),
    (lambda read: read["arrays"]["labels"].update(dtype=7), "is not a whole baseline"),
    (lambda read: read["arrays"]["weights"]["values"].__setitem__(0, -1.0), "weights must be above 0"),
    (
        lambda read: read["header"].update(created_at="nan"),
        "header created_at: input should be a valid number",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_export_is_refused_with_the_reason(recorded, tmp_path, damage, message):
    read = json.loads(to_json(recorded()))
    damage(read)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(read))
    with pytest.raises(BaselineError, match=message):
        from_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a baseline"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
    ],
)
def test_what_is_no_export_is_named(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BaselineError, match=message):
        from_json(path)


def test_files_that_are_not_there_are_named(files, tmp_path):
    with pytest.raises(BaselineError, match=r"cannot read .*none\.json"):
        from_json(tmp_path / "none.json")
    with pytest.raises(BaselineError, match=r"cannot write .*nowhere"):
        run("export", files[0], tmp_path / "nowhere" / "a.json")
