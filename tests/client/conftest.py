"""The replica that these tests share."""

from tests.support.replicas import app_id, shared

__all__ = ["app_id", "shared"]
