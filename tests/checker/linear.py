"""Whether the answers about one name can be explained by some order of the calls in which each takes effect at one instant between its
invocation and its answer (a search in the manner of Wing and Gong, with the memory of states that Lowe added).

The state of a name is the version that is stored, or nothing. A version that ends by itself may become nothing from its own end on. A call
whose fate is unknown may take effect at any time after its invocation, or never.
"""

from collections.abc import Callable
from typing import Any

from tests.checker.history import NEVER, Call

State = str | None
# Fates that say for sure that nothing happened.
_HARMLESS = {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}
_STEPS_MAX = 200_000


def effect(call: Call, name: str, state: State) -> tuple[bool, State]:
    """Whether the call's answer fits this state, and the state after it."""
    begin, end = call.begin, call.end or {}
    code = end.get("code", "OK")
    op, outcome = begin["op"], call.outcome
    if op in {"get", "list"}:
        if outcome == "info":
            return True, state
        seen = end.get("ver") if op == "get" else end["found"].get(name)
        return seen == state, state
    if outcome == "fail":
        fits = code in _HARMLESS or (code == "ALREADY_EXISTS" and state is not None)
        return fits, state
    if op == "delete":
        return True, None
    free = state is None or begin["overwrite"]
    if outcome == "info":
        return True, begin["ver"] if free else state
    return free, begin["ver"]


def explains(calls: list[Call], name: str, ends_t: Callable[[str], int]) -> bool:
    """Whether some order explains all answers. `ends_t(version)`: from when on it may be gone by itself."""
    calls = sorted(calls, key=lambda call: call.begin["t"])
    begins = [call.begin["t"] for call in calls]
    returns = [call.returned_t for call in calls]
    must = sum(1 << index for index, call in enumerate(calls) if call.outcome != "info")
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State]] = [(0, None)]
    steps = 0
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        steps += 1
        if steps > _STEPS_MAX:
            raise RuntimeError(f"the search for {name!r} does not end: {len(calls)} calls are too many at once")
        limit = min(returns[index] for index in range(len(calls)) if not done >> index & 1)
        for index, call in enumerate(calls):
            if done >> index & 1 or begins[index] > limit:
                continue
            states: set[State] = {state}
            if state is not None and ends_t(state) <= min(returns[index], NEVER - 1):
                states.add(None)
            for before in states:
                fits, after = effect(call, name, before)
                if fits:
                    stack.append((done | 1 << index, after))
    return False


def names_of(calls: list[Call]) -> dict[tuple[Any, ...], list[Call]]:
    """The calls about each name; a list is a call about every name of its app."""
    names: dict[tuple[Any, ...], list[Call]] = {}
    for call in calls:
        if call.begin["op"] != "list":
            names.setdefault(call.name, []).append(call)
    for call in calls:
        if call.begin["op"] == "list" and call.outcome == "ok":
            for name, about in names.items():
                if name[:2] == call.name[:2]:
                    about.append(call)
    return names
