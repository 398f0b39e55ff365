"""TraceSetting and LogSettings: what is configured; and the one rule of who may change anything."""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import ForbiddenError, UnsupportedError
from sidecar.server.models import Models
from sidecar.server.status import ErrorsAsStatus

Context = grpc.aio.ServicerContext[Any, Any]

TRACE = {"trace_level": "OFF"}
"""Nothing is traced, whatever the model."""


def permit(admin: bool) -> Callable[[], None]:
    """A check that raises ForbiddenError unless `admin`."""

    def check() -> None:
        if not admin:
            raise ForbiddenError("admin calls are not allowed: server.admin is false")

    return check


class SettingsService:
    """Tells the settings; asking for what is set already is no change.

    permit: raises where admin calls are not allowed. log: the logger whose level is told.
    """

    def __init__(self, models: Models, permit: Callable[[], None], log: logging.Logger) -> None:
        self._models = models
        self._permit = permit
        self._log = log

    async def TraceSetting(
        self, message: pb.TraceSettingRequest, context: Context
    ) -> pb.TraceSettingResponse:
        async with ErrorsAsStatus(context, message):
            if message.model_name:
                self._models.find(message.model_name, "")
            # An empty value takes a setting back to its default, and nothing has left that.
            asked = {name: list(setting.value) for name, setting in message.settings.items() if setting.value}
            self._refuse_change(
                {name for name, values in asked.items() if values != [TRACE.get(name)]},
                "nothing can be traced",
            )
        response = pb.TraceSettingResponse()
        for name, value in TRACE.items():
            response.settings[name].value.append(value)
        return response

    async def LogSettings(self, message: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:
        now = self._log_settings()
        async with ErrorsAsStatus(context, message):
            asked = {
                name: getattr(setting, choice)
                for name, setting in message.settings.items()
                if (choice := setting.WhichOneof("parameter_choice"))
            }
            self._refuse_change(
                {name for name, value in asked.items() if value != now.get(name)},
                "log.level in the configuration sets what is logged",
            )
        response = pb.LogSettingsResponse()
        for name, value in now.items():
            field = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(response.settings[name], field, value)
        return response

    def _log_settings(self) -> dict[str, bool | int | str]:
        """By Triton's names. Everything goes to standard error, which has no file name."""
        return {
            "log_file": "",
            "log_info": self._log.isEnabledFor(logging.INFO),
            "log_warning": self._log.isEnabledFor(logging.WARNING),
            "log_error": self._log.isEnabledFor(logging.ERROR),
            "log_verbose_level": int(self._log.isEnabledFor(logging.DEBUG)),
        }

    def _refuse_change(self, names: set[str], reason: str) -> None:
        if names:
            self._permit()
            raise UnsupportedError(f"cannot change {', '.join(map(repr, sorted(names)))}: {reason}")
