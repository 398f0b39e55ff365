"""The OpenAPI 3.1 document, written from the models of questions and answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from sidecar import __version__
from sidecar.console.answers import Answer
from sidecar.console.questions import Question

_REFERENCE = "#/components/schemas/{model}"
_REFUSALS = {
    "400": "A field is missing, unknown or out of range; the text says which and what is allowed.",
    "401": "The bearer token is missing or wrong.",
    "403": "The answer would be about fewer than console.min_requests requests, or shows inputs to no admin.",
    "404": "Nothing is known of this model version.",
    "429": "Answers have taken console.budget; try again later.",
    "503": "The store cannot be read now.",
}


@dataclass(frozen=True, slots=True)
class Method:
    """path: under /api/v1. answer_to: called with a Scope and a question of that kind.

    runs_model: it takes seconds, and has a thread of its own.
    """

    path: str
    question: type[Question]
    answer: type[Answer]
    answer_to: Callable[[Any, Any], Answer]
    runs_model: bool = False


@dataclass(frozen=True, slots=True)
class Further:
    """A path under /api/v1 that is no method. answer: None where that is a file.

    parameters: name -> description of each, all of them text that may be left out. refusals: status -> when.
    """

    path: str
    summary: str
    answer: type[Answer] | None
    parameters: Mapping[str, str]
    refusals: Mapping[str, str]


def document(methods: Mapping[str, Method], further: Sequence[Further]) -> dict[str, Any]:
    wanted = {one.answer for one in methods.values()} | {one.answer for one in further if one.answer}
    answers = sorted(wanted, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "serialization") for model in answers], ref_template=_REFERENCE)
    components = schemas["$defs"] | {
        "Refusal": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Activation telemetry", "version": __version__},
        "paths": {
            **{f"/api/v1/{one.path}": {"get": _operation(name, one)} for name, one in methods.items()},
            **{f"/api/v1/{one.path}": {"get": _of_further(one)} for one in further},
        },
        "components": {"schemas": components},
    }


def _operation(name: str, method: Method) -> dict[str, Any]:
    schema = method.question.model_json_schema()
    defined = schema.get("$defs", {})
    parameters = [
        {
            "name": key,
            "in": "query",
            "required": key in schema.get("required", ()),
            "description": one.get("description", ""),
            **({"explode": False} if one.get("type") == "array" else {}),
            "schema": _plain({key: value for key, value in one.items() if key != "description"}, defined),
        }
        for key, one in schema["properties"].items()
    ]
    return {
        "operationId": name,
        "summary": inspect.getdoc(method.question) or "",
        "parameters": parameters,
        "responses": {
            "200": {"description": "The answer.", "content": _json(method.answer.__name__)},
            **{code: {"description": text, "content": _json("Refusal")} for code, text in _REFUSALS.items()},
        },
    }


def _of_further(one: Further) -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    answer = _json(one.answer.__name__) if one.answer else {"application/octet-stream": {}}
    refusal = _json("Refusal") if one.answer else text
    return {
        "operationId": one.path,
        "summary": one.summary,
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": told,
                "schema": {"type": "string"},
            }
            for name, told in one.parameters.items()
        ],
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            "401": {"description": _REFUSALS["401"], "content": text},
            **{code: {"description": when, "content": refusal} for code, when in one.refusals.items()},
        },
    }


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model)}}}


def _plain(schema: dict[str, Any], defined: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with what it refers to in its place, as a parameter has no definitions of its own."""
    if "$ref" in schema:
        target = defined[schema["$ref"].rpartition("/")[2]]
        return _plain({**target, **{key: value for key, value in schema.items() if key != "$ref"}}, defined)
    if "anyOf" in schema:
        choices = [_plain(choice, defined) for choice in schema["anyOf"] if choice.get("type") != "null"]
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return {**rest, **choices[0]}
    return schema
