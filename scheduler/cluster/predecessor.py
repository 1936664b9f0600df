"""Proof that an old lease belonged to this replica's dead predecessor, so that nobody has to wait for it to expire (design 5).

A replica keeps its lease id in a file of its data directory and holds the file's lock while it lives. Whoever gets the lock
knows that the writer is dead, and may revoke the lease that it left.
"""

import fcntl
import os
from pathlib import Path


class LeaseFile:
    """The file of one replica. Holds the lock until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError while another process holds the lock, OSError if the file cannot be made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise

    def read(self) -> int:
        """The predecessor's lease; 0 where there is none."""
        text = os.pread(self._descriptor, 64, 0).decode("ascii", "replace").strip()
        return int(text) if text.isascii() and text.isdigit() else 0

    def write(self, lease_id: int) -> None:
        """Remember our lease for our successor."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{lease_id}\n".encode(), 0)

    def close(self) -> None:
        """Give the lock up."""
        os.close(self._descriptor)
