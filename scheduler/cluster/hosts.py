"""The addresses that sidecars should be connected to, and whoever wants to hear of changes (scheduler-service.md 4.6)."""

from collections.abc import Callable


class HostList:
    """All members with a live key, whatever their state: sidecars are there before partitions come and stay until they have left."""

    def __init__(self) -> None:
        """Empty and not known yet."""
        self.addresses: tuple[str, ...] = ()
        self.known = False
        self._subscribers: set[Callable[[tuple[str, ...]], None]] = set()

    def subscribe(self, callback: Callable[[tuple[str, ...]], None]) -> Callable[[], None]:
        """Hear of real changes from now on; call what comes back to stop."""
        self._subscribers.add(callback)
        return lambda: self._subscribers.discard(callback)

    def update(self, addresses: tuple[str, ...]) -> None:
        """The members as they are now; tells nobody where nothing changed."""
        if self.known and addresses == self.addresses:
            return
        self.known = True
        self.addresses = addresses
        for callback in list(self._subscribers):
            callback(addresses)
