"""Labels of outputs, read from the file that the settings name."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.runtime.signature import specs
from sidecar.settings import TensorSettings


def output(labels):
    return TensorSettings(name="y", datatype="FP32", shape=(-1, 3), labels=labels)


def test_each_line_is_a_label_and_an_empty_one_keeps_its_place(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\r\n\n dög \n", encoding="utf-8")
    (spec,) = specs([output(tmp_path / "labels.txt")])
    assert spec.labels == ("cat", "", "dög")


def test_without_a_file_there_are_no_labels():
    assert specs([output(None)])[0].labels == ()


def test_labels_that_cannot_be_read_are_a_config_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path / "binary", tmp_path):
        with pytest.raises(ConfigError, match=r"labels .* of output y cannot be read"):
            specs([output(path)])
