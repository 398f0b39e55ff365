"""sidecar/_pb: what protoc writes, in a pool of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import tritonclient.grpc.model_config_pb2 as config
import tritonclient.grpc.service_pb2 as triton

from sidecar._pb import open_inference_pb2 as ours

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "protos" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generating_again_makes_no_difference(generator):
    assert generator.differing(generator.generate()) == []


def test_check_names_what_differs(generator, tmp_path):
    (tmp_path / "open_inference_pb2.py").write_text("old")
    (tmp_path / "stray_pb2.py").write_text("")
    wanted = {"open_inference_pb2.py": "new", "missing_pb2.py": ""}
    assert generator.differing(wanted, tmp_path) == [
        "missing_pb2.py",
        "open_inference_pb2.py",
        "stray_pb2.py",
    ]


@pytest.mark.parametrize("first", ["sidecar._pb.open_inference_pb2", "tritonclient.grpc"])
def test_tritonclient_and_ours_live_in_one_process_in_either_order(first):
    both = ["sidecar._pb.open_inference_pb2", "tritonclient.grpc"]
    both.sort(key=lambda name: name != first)
    code = f"import {both[0]}, {both[1]}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def shape_of(message):
    fields = {
        (field.number, field.name, field.type, field.is_repeated, getattr(field.containing_oneof, "name", ""))
        for field in message.fields
    }
    return fields, {nested.name: shape_of(nested) for nested in message.nested_types}


KSERVES = {
    "RepositoryModelLoadResponse": {(1, "model_name"), (2, "isLoaded")},
    "RepositoryModelUnloadResponse": {(1, "model_name"), (2, "isUnloaded")},
}
"""Empty messages of Triton's to which KServe gives fields."""

CONFIGURATION = {
    name for name in ours.DESCRIPTOR.message_types_by_name if name in config.DESCRIPTOR.message_types_by_name
}


@pytest.mark.parametrize("name", sorted(CONFIGURATION))
def test_every_message_of_a_configuration_has_a_part_of_the_fields_of_tritons(name):
    fields, _ = shape_of(ours.DESCRIPTOR.message_types_by_name[name])
    theirs, _ = shape_of(config.DESCRIPTOR.message_types_by_name[name])
    # The choice among scheduling policies has one member here.
    assert {field[:4] for field in fields} <= {field[:4] for field in theirs}


def test_the_types_of_a_configuration_are_numbered_as_tritons():
    assert dict(ours.DataType.items()) == dict(config.DataType.items())


def test_every_method_has_the_form_of_tritons():
    def methods(module):
        service = module.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        return {
            (
                each.name,
                each.input_type.name,
                each.output_type.name,
                each.client_streaming,
                each.server_streaming,
            )
            for each in service.methods
        }

    assert methods(ours) == methods(triton)


@pytest.mark.parametrize("name", sorted(set(ours.DESCRIPTOR.message_types_by_name) - CONFIGURATION))
def test_every_message_has_exactly_the_fields_of_tritons(name):
    fields, nested = shape_of(ours.DESCRIPTOR.message_types_by_name[name])
    if name in KSERVES:
        assert {(number, field) for number, field, *_ in fields} == KSERVES[name]
        fields = set()
    assert (fields, nested) == shape_of(triton.DESCRIPTOR.message_types_by_name[name])
