"""The scheduler's gRPC services: translate, validate, authorise, map errors."""
