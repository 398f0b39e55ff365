"""One table from error class to status."""

from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.server.status import CODES, code_of


@pytest.mark.parametrize("kind", errors.RequestError.__subclasses__())
def test_every_error_a_client_may_see_has_a_status(kind):
    assert kind in CODES


@pytest.mark.parametrize("kind", [KeyError, errors.ModelError, errors.SketchError])
def test_every_other_error_is_internal(kind):
    assert code_of(kind("x")).name == "INTERNAL"
