"""The sidecar: Jobs API for an app, delivery of triggers to it."""
