"""The processes of this machine, from /proc: ps cuts a command line at COLUMNS characters, and what it cut off looks like a process that is gone."""

from __future__ import annotations

from pathlib import Path


def running(text: str) -> bool:
    """Whether `text` stands in the command line of any process, its arguments parted by a space each."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes()
        except OSError:  # it has ended since it was listed
            continue
        if text in words.replace(b"\0", b" ").decode(errors="replace"):
            return True
    return False
