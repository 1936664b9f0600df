"""Names of jobs: who a job is for, the key it is stored under, and what a name may hold (scheduler-service.md 1.3, 1.4).

The reference joins segments with two pipes, which is ambiguous where a segment holds pipes itself (weakness W48). In our keys
the segments before the job's own name are escaped, so that different jobs never share a key and no prefix reaches into another's.
"""

import re
from typing import NamedTuple

from scheduler.core.errors import InvalidName

SEPARATOR = "||"
NAME_MAX_BYTES = 512
_FORBIDDEN = re.compile(r"[/\\#?]")
# Ends a job's name in the key of an occurrence beside its schedule; no name may hold it, so nobody can ask for such a key by name.
_RUN_NOW = "\x1f"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Target(NamedTuple):
    """Whom a job is for: an app's job, or an actor's reminder (`actor_id` None for jobs)."""

    kind: str
    namespace: str
    owner: str
    actor_id: str | None

    @property
    def is_actor(self) -> bool:
        """Whether this is an actor's reminder."""
        return self.actor_id is not None


def _escape(segment: str) -> str:
    if "|" in segment or "%" in segment:
        return segment.replace("%", "%25").replace("|", "%7C")
    return segment


def unescape(segment: str) -> str:
    """A key's segment as it was given."""
    return segment.replace("%7C", "|").replace("%25", "%")


def namespace_prefixes(namespace: str) -> tuple[str, str]:
    """What the storage keys of all jobs and reminders of a namespace begin with; they reach into no other namespace."""
    escaped = _escape(namespace)
    return f"app{SEPARATOR}{escaped}{SEPARATOR}", f"actorreminder{SEPARATOR}{escaped}{SEPARATOR}"


def app_target(namespace: str, app_id: str) -> Target:
    """Jobs of an app."""
    return Target("app", namespace, app_id, None)


def actor_target(namespace: str, actor_type: str, actor_id: str) -> Target:
    """Reminders of an actor; an empty id stands for all of the type in prefix operations."""
    return Target("actorreminder", namespace, actor_type, actor_id)


def route_key(target: Target) -> str:
    """What triggers are routed by: the app, or the actor type."""
    return f"{target.kind}||{_escape(target.namespace)}||{_escape(target.owner)}"


def namespace_of(route: str) -> str:
    """The namespace in a `route_key`, for people and metrics: readable text of bounded length, whatever lies in etcd."""
    _, _, rest = route.partition(SEPARATOR)
    return unescape(rest.partition(SEPARATOR)[0])[:64].encode("utf-8", "replace").decode()


def storage_prefix(target: Target) -> str:
    """What all keys of the target begin with; it ends with a separator, so it reaches into nobody else's."""
    prefix = route_key(target) + SEPARATOR
    return f"{prefix}{_escape(target.actor_id)}{SEPARATOR}" if target.actor_id else prefix


def actor_id_prefix(target: Target) -> str:
    """What all keys begin with of actors whose id begins with the target's."""
    return f"{route_key(target)}{SEPARATOR}{_escape(target.actor_id or '')}"


def storage_key(target: Target, name: str) -> str:
    """The key of one job."""
    prefix = route_key(target) + SEPARATOR
    if target.actor_id is not None:
        prefix += _escape(target.actor_id) + SEPARATOR
    return prefix + name


def run_now_key(target: Target, name: str, request_id: str) -> str:
    """The key of an occurrence beside the schedule of a job: right behind the job's own, so that whatever deletes the job takes it too."""
    return f"{storage_key(target, name)}{_RUN_NOW}{request_id}"


def is_run_now(key: str) -> bool:
    """Whether a storage key is a `run_now_key`."""
    return _RUN_NOW in key


def job_key(key: str) -> str:
    """The key of the job that a storage key belongs to: itself, but for a `run_now_key`."""
    return key.partition(_RUN_NOW)[0]


def run_now_end(key: bytes) -> bytes:
    """Where the keys of a job and of its occurrences beside the schedule end: no other job's lie between."""
    return key + bytes([ord(_RUN_NOW) + 1])


def reference_name(target: Target, name: str) -> str:
    """The composed name as the reference writes it, for texts."""
    if target.actor_id is None:
        return f"{target.kind}||{target.namespace}||{target.owner}||{name}"
    return f"{target.kind}||{target.namespace}||{target.owner}||{target.actor_id}||{name}"


def fits(target: Target, name: str = "") -> bool:
    """Whether any job of the target can have a name that begins so; where none can, nobody need be asked for it."""
    return len(reference_name(target, name).encode("utf-8", "surrogatepass")) <= NAME_MAX_BYTES


def go_quote(text: str) -> str:
    """A text as Go's %q prints it."""
    short = {
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
        '"': '\\"',
        "\\": "\\\\",
    }
    quoted = []
    for character in text:
        if character in short:
            quoted.append(short[character])
        elif character.isprintable():
            quoted.append(character)
        elif ord(character) < 0x80:
            quoted.append(f"\\x{ord(character):02x}")
        elif ord(character) < 0x10000:
            quoted.append(f"\\u{ord(character):04x}")
        else:
            quoted.append(f"\\U{ord(character):08x}")
    return '"' + "".join(quoted) + '"'


def check_name(composed: str) -> None:
    """The rules for a composed name. Raises InvalidName with the reference's text."""
    if not composed:
        raise InvalidName("job name cannot be empty")
    problem = None
    if len(composed.encode("utf-8", "surrogatepass")) > NAME_MAX_BYTES:
        problem = f"must be at most {NAME_MAX_BYTES} characters"
    elif _FORBIDDEN.search(composed):
        problem = "must not contain '/', '\\', '#' or '?'"
    elif _CONTROL.search(composed):
        problem = "must not contain control characters"
    elif composed in {".", ".."}:
        problem = "must not be a path traversal sequence"
    if problem is not None:
        raise InvalidName(f"job name is invalid {go_quote(composed)}: {problem}")
