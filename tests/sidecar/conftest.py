"""Schedulers for sidecars under test: a real replica that the session shares, and one that behaves as the reference's."""

from collections.abc import Iterator

import pytest

from tests.support.reference import ReferenceScheduler
from tests.support.replicas import app_id, shared

__all__ = ["app_id", "shared"]


@pytest.fixture
def reference() -> Iterator[ReferenceScheduler]:
    one = ReferenceScheduler()
    yield one
    one.close()
