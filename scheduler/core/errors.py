"""The root of the house's errors, and those of the pure rules."""


class SchedulerError(Exception):
    """Root of everything that the product raises for reasons outside itself."""


class InvalidJob(SchedulerError):
    """A job that cannot be accepted: which field, and why (the texts are the reference's, scheduler-service.md 1.8)."""

    def __init__(self, field: str, message: str) -> None:
        """`field` is the request's field name, `message` what was found and what is wrong with it."""
        super().__init__(message)
        self.field = field
        self.message = message


class InvalidName(SchedulerError):
    """A job name that cannot be accepted (scheduler-service.md 1.4)."""
