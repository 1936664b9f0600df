"""What the scheduler asks of a Kubernetes API server."""
