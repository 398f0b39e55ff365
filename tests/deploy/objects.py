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
                minReplicas=COUNT,
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


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Specs of the pods that the objects make."""
    found = [one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"]
    return found + [one["spec"] for one in objects if one["kind"] == "ServingRuntime"]


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
