"""A client for apps in Python that do without a sidecar: it talks to the schedulers directly. See docs/client.md."""

from scheduler.client.client import Client, Tls
from scheduler.client.errors import ClientError, JobExists, JobNotFound, SchedulerUnavailable
from scheduler.client.jobs import Drop, Job, Retry
from scheduler.client.triggers import Trigger

__all__ = [
    "Client",
    "ClientError",
    "Drop",
    "Job",
    "JobExists",
    "JobNotFound",
    "Retry",
    "SchedulerUnavailable",
    "Tls",
    "Trigger",
]
