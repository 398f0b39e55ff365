"""Kubernetes objects against schemas: Kubernetes' own, and for custom resources those of this file.

The custom schemas hold only the fields that `deploy/` uses, and refuse all others. They follow the API references of
prometheus-operator 0.7x and 0.8x (monitoring.coreos.com/v1), Gateway API 1.1 (GRPCRoute v1, standard channel) and
KServe 0.13 to 0.15 (ServingRuntime v1alpha1, InferenceService v1beta1).
"""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate

OLDEST, NEWEST = "1.25", "1.34"

Schema = dict[str, Any]
Objects = list[dict[str, Any]]
STRING: Schema = {"type": "string", "minLength": 1}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Schema = {"type": "integer", "minimum": 0}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Schema = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w|y))+$"}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


SELECTOR = record({"matchLabels": STRINGS})
SECRET_KEY = record({"name": STRING, "key": STRING})
RELABELING = record({"action": {"enum": ["replace"]}, "targetLabel": STRING, "replacement": STRING})
SCRAPE = record({"port": STRING, "interval": DURATION}, relabelings=many(RELABELING))
TLS_SCRAPE = record(
    {"port": STRING, "interval": DURATION},
    relabelings=many(RELABELING),
    scheme={"enum": ["http", "https"]},
    authorization=record({"credentials": SECRET_KEY}),
    tlsConfig=record({"serverName": STRING, "ca": record({"secret": SECRET_KEY})}),
)
RECORDING_RULE = record({"record": STRING, "expr": STRING}, labels=STRINGS)
ALERTING_RULE = record(
    {"alert": STRING, "expr": STRING},
    **{"for": DURATION, "keep_firing_for": DURATION, "labels": STRINGS, "annotations": STRINGS},
)
GROUP = record({"name": STRING, "rules": many({"oneOf": [RECORDING_RULE, ALERTING_RULE]})}, interval=DURATION)
BACKEND = record({"name": STRING, "port": PORT})
MIRROR = record({"type": {"const": "RequestMirror"}, "requestMirror": record({"backendRef": BACKEND})})
MATCH = record({"method": record({"service": STRING}, method=STRING)})
FORMAT = record({"name": STRING}, version=STRING, autoSelect={"type": "boolean"})

SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): record(
        {"selector": SELECTOR, "endpoints": many(TLS_SCRAPE)}
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): record(
        {"selector": SELECTOR, "podMetricsEndpoints": many(SCRAPE)}
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): record({"groups": many(GROUP)}),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): record(
        {
            "parentRefs": many(record({"name": STRING}, namespace=STRING)),
            "rules": many(record({"backendRefs": many(BACKEND)}, matches=many(MATCH), filters=many(MIRROR))),
        }
    ),
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): record(
        {
            "supportedModelFormats": many(FORMAT),
            "containers": many({"type": "object"}),
            "protocolVersions": many({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
        },
        annotations=STRINGS,
        volumes=many({"type": "object"}),
    ),
    ("serving.kserve.io/v1beta1", "InferenceService"): record(
        {
            "predictor": record(
                {"model": record(
                    {"modelFormat": record({"name": STRING}, version=STRING)},
                    runtime=STRING, protocolVersion=STRING, storageUri=STRING,
                )},
                minReplicas=COUNT, terminationGracePeriodSeconds=COUNT, enableServiceLinks={"type": "boolean"},
            )
        }
    ),
}  # fmt: skip


def validate(found: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError or KeyError for what no API server would take."""
    kind = found["apiVersion"], found["kind"]
    if kind not in SPECS:
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(found, version, strict=True)
        return
    jsonschema.validate(
        found,
        record({"apiVersion": STRING, "kind": STRING, "metadata": {"type": "object"}, "spec": SPECS[kind]}),
    )
    if found["kind"] == "ServingRuntime":
        pod = {key: found["spec"][key] for key in ("containers", "volumes")}
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-the-runtime"}, "spec": pod})


def one(objects: Objects, kind: str, name: str | None = None) -> dict[str, Any]:
    """The only object of the kind, or the one of them that has the name."""
    (found,) = [
        candidate
        for candidate in objects
        if candidate["kind"] == kind and name in (None, candidate["metadata"]["name"])
    ]
    return found


def pods(objects: Objects) -> Objects:
    """Specs of the pods that the objects make."""
    found = [
        one["spec"]["template"]["spec"] for one in objects if one["kind"] in ("Deployment", "StatefulSet")
    ]
    return found + [one["spec"] for one in objects if one["kind"] == "ServingRuntime"]


def environment(objects: Objects) -> dict[str, str]:
    """Of the only container of the only pod."""
    (pod,) = pods(objects)
    (container,) = pod["containers"]
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """A label selector of Kubernetes, as far as `deploy/` uses them."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def admits(policy: dict[str, Any], port: str | int, labels: dict[str, str]) -> bool:
    """Whether a NetworkPolicy lets a pod of its own namespace in at a port."""
    return any(
        {"port": port} in rule["ports"]
        and any(selects(peer["podSelector"], labels) for peer in rule["from"] if "podSelector" in peer)
        for rule in policy["spec"].get("ingress", [])
    )


def hardened(pod: dict[str, Any]) -> bool:
    """What the restricted profile of the Pod Security Standards asks for, and a read-only root."""
    whole = pod.get("securityContext", {})
    return all(
        (whole | (own := container["securityContext"])).get("runAsNonRoot") is True
        and (whole | own)["seccompProfile"] == {"type": "RuntimeDefault"}
        and own["allowPrivilegeEscalation"] is False
        and own["readOnlyRootFilesystem"] is True
        and own["capabilities"] == {"drop": ["ALL"]}
        for container in pod["containers"]
    )


def one_source_each(pod: dict[str, Any]) -> bool:
    """Whether no volume has two sources or none, which the schemas let pass and no API server does."""
    return all(len(volume.keys() - {"name"}) == 1 for volume in pod.get("volumes", []))
