"""What request parameters of Triton's extensions ask for.

A name that stands for nothing here is left to the model's side, as `parameters` of the request.
"""

from __future__ import annotations

from sidecar.errors import InvalidInputError
from sidecar.types import InferRequest

EMPTY_FINAL = "triton_enable_empty_final_response"


def apply(request: InferRequest, started: float, priority_levels: int) -> None:
    """Give `request` the priority and the deadline that its parameters name.

    `timeout` is microseconds from `started` until the request must have left the queue, 0 none.
    Raises InvalidInputError for values that are not allowed, and for sequences, whose requests would have to
    reach one state of the model in order.
    """
    if request.parameters.keys() & {"sequence_id", "sequence_start", "sequence_end"}:
        _refuse_sequence(request)
    if timeout := _integer(request, "timeout"):
        expires = started + timeout / 1e6
        request.deadline = expires if request.deadline is None else min(expires, request.deadline)
    asked = _integer(request, "priority")
    if priority_levels:
        request.priority = asked if 1 <= asked <= priority_levels else priority_levels


def wants_empty_final(request: InferRequest) -> bool:
    """Whether a client of a decoupled model asks to be told of the end. Raises InvalidInputError."""
    wanted = request.parameters.get(EMPTY_FINAL, False)
    if not isinstance(wanted, bool):
        raise InvalidInputError(f"parameter {EMPTY_FINAL!r} is {wanted!r}, must be a bool")
    return wanted


def _refuse_sequence(request: InferRequest) -> None:
    # A client may send the fields at their defaults, which mean no sequence.
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if request.parameters.get(name) not in (None, 0, "", False):
            raise InvalidInputError(
                f"parameter {name!r} is set, and no model here keeps state between requests: leave it out"
            )


def _integer(request: InferRequest, name: str) -> int:
    value = request.parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise InvalidInputError(f"parameter {name!r} is {value!r}, must be an integer from 0")
    return value
