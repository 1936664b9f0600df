"""Scheduler: a distributed, clustered job scheduler on etcd, wire-compatible with Dapr's Scheduler service and Jobs API."""

__version__ = "0.1.0"
