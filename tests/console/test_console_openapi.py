"""The document says what the API does."""

import pytest

from sidecar.console.api import METHODS, Api, Sources
from sidecar.console.openapi import document
from sidecar.console.questions import Question
from sidecar.console.summary import FURTHER, Summary
from sidecar.timeline import History
from tests.console.kept import FREE, NOW, elsewhere


async def documented(questioned):
    async with questioned() as http:
        return (await http.get("openapi.json")).json()


def references(tree):
    if isinstance(tree, dict):
        if "$ref" in tree:
            yield tree["$ref"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for one in tree:
            yield from references(one)


async def test_every_method_is_documented_with_each_field_of_its_question(questioned):
    document = await documented(questioned)
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {f"/api/v1/{one.path}" for one in (*METHODS.values(), *FURTHER)}
    for name, method in METHODS.items():
        operation = document["paths"][f"/api/v1/{method.path}"]["get"]
        assert operation["operationId"] == name
        assert [one["name"] for one in operation["parameters"]] == list(method.question.model_fields)
        required = {one["name"] for one in operation["parameters"] if one["required"]}
        assert required == {key for key, field in method.question.model_fields.items() if field.is_required()}


async def test_whatever_the_document_refers_to_is_in_it(questioned):
    document = await documented(questioned)
    found = set(references(document))
    assert found
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


async def test_an_answer_has_the_fields_that_the_document_says(questioned, ask):
    document = await documented(questioned)
    answer = await ask("layer", layer=0)
    schema = document["components"]["schemas"]["LayerAnswer"]
    assert set(answer) == set(schema["properties"])
    assert set(answer["covered"]) == set(document["components"]["schemas"]["Covered"]["properties"])


def test_whatever_the_port_answers_under_api_is_documented(kept_panes):
    api = Api(Sources(History(kept_panes, dict), [], None, elsewhere()), FREE, lambda: NOW)
    there = [*api.routes(), *Summary([], None, 60.0, 1, 0.0, api.budget).routes()]
    api.close()
    told = document(METHODS, FURTHER)["paths"]
    assert {route.path for route in there} - set(told) == {"/api/v1/openapi.json"}


@pytest.mark.parametrize("name", ["status", "versions"])
async def test_a_summary_has_the_fields_that_the_document_says(browse, fixed_model, plain_model, name):
    async with browse(fixed_model, plain_model) as http:
        answer = (await http.get(f"/api/v1/{name}")).json()
    described = document(METHODS, FURTHER)
    content = described["paths"][f"/api/v1/{name}"]["get"]["responses"]["200"]["content"]
    schema = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schemas = described["components"]["schemas"]
    assert set(answer) == set(schemas[schema]["properties"])
    for model in answer.get("models", []):
        assert set(model) == set(schemas["ModelStatus"]["properties"])
        for layer in model["layers"]:
            assert set(layer) == set(schemas["LayerStatus"]["properties"])


def test_every_question_refuses_unknown_fields():
    assert all(issubclass(one.question, Question) for one in METHODS.values())
    assert all(one.question.model_config["extra"] == "forbid" for one in METHODS.values())
