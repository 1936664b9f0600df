import pathlib
import sys

directory, keep = pathlib.Path(sys.argv[1]), int(sys.argv[2])
snapshots = sorted(directory.glob("*.db"), key=lambda path: path.stat().st_mtime)
for old in snapshots[:-keep]:
    old.unlink()
    print("removed", old.name)
print("kept", len(snapshots[-keep:]))
