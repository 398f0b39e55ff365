"""Counts and cumulative times of each model version, as the protocol's ModelStatistics wants them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sidecar._pb import open_inference_pb2 as pb
from sidecar.types import Clock, Cost, ServingObserver


@dataclass(slots=True)
class _Duration:
    """How often, and how long in seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds * count

    def message(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self.count, ns=round(self.seconds * 1e9))


@dataclass(slots=True)
class _Stages:
    """How often, and how long each stage of a batch took, under the protocol's names."""

    compute_input: _Duration = field(default_factory=_Duration)
    compute_infer: _Duration = field(default_factory=_Duration)
    compute_output: _Duration = field(default_factory=_Duration)

    def add(self, cost: Cost, count: int = 1) -> None:
        self.compute_input.add(cost.assembly, count)
        self.compute_infer.add(cost.compute, count)
        self.compute_output.add(cost.response, count)

    def messages(self) -> dict[str, pb.StatisticDuration]:
        return {name: getattr(self, name).message() for name in self.__slots__}


@dataclass(slots=True)
class _Version:
    last: float = 0.0
    rows: int = 0
    batches: int = 0
    success: _Duration = field(default_factory=_Duration)
    fail: _Duration = field(default_factory=_Duration)
    queue: _Duration = field(default_factory=_Duration)
    stages: _Stages = field(default_factory=_Stages)
    by_rows: defaultdict[int, _Stages] = field(default_factory=lambda: defaultdict(_Stages))


class Statistics:
    """A ServingObserver that counts and passes everything on to the next.

    clock: seconds since the epoch, for the time of the last inference.
    """

    def __init__(self, following: ServingObserver, clock: Clock) -> None:
        self._following = following
        self._clock = clock
        self._versions: defaultdict[tuple[str, str], _Version] = defaultdict(_Version)
        self.call_ended = following.call_ended
        self.request_started = following.request_started
        self.queue_length = following.queue_length
        self.model_state = following.model_state
        self.input_nonfinite = following.input_nonfinite

    def request_finished(self, model: str, version: str, code: str, seconds: float, reason: str) -> None:
        counts = self._versions[model, version]
        (counts.success if code == "OK" else counts.fail).add(seconds)
        self._following.request_finished(model, version, code, seconds, reason)

    def batch_finished(
        self, model: str, version: str, rows: int, queued: Sequence[float], cost: Cost | None
    ) -> None:
        if cost is not None:
            counts = self._versions[model, version]
            counts.last = self._clock()
            counts.rows += rows
            counts.batches += 1
            counts.queue.count += len(queued)
            counts.queue.seconds += sum(queued)
            counts.stages.add(cost, len(queued))
            counts.by_rows[rows].add(cost)
        self._following.batch_finished(model, version, rows, queued, cost)

    def message(self, model: str, version: str) -> pb.ModelStatistics:
        """All that is known of a version since the process started; zeros for one that had no request.

        A request has the times of its whole batch. There is no cache.
        """
        counts = self._versions.get((model, version), _Version())
        return pb.ModelStatistics(
            name=model,
            version=version,
            last_inference=int(counts.last * 1000),
            inference_count=counts.rows,
            execution_count=counts.batches,
            inference_stats=pb.InferStatistics(
                success=counts.success.message(),
                fail=counts.fail.message(),
                queue=counts.queue.message(),
                **counts.stages.messages(),
            ),
            batch_stats=[
                pb.InferBatchStatistics(batch_size=rows, **stages.messages())
                for rows, stages in sorted(counts.by_rows.items())
            ],
        )
