"""The document says what the API does."""

from sidecar.console.api import METHODS
from sidecar.console.questions import Question


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
    assert set(document["paths"]) == {f"/api/v1/{one.path}" for one in METHODS.values()}
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


def test_every_question_refuses_unknown_fields():
    assert all(issubclass(one.question, Question) for one in METHODS.values())
    assert all(one.question.model_config["extra"] == "forbid" for one in METHODS.values())
