"""Boards: how the ladder reaches a board, what it runs there, and the virtual board that stands in for one.

    fleet.py     which boards there are (fleet.yaml)
    session.py   one SSH connection: run, put, get, lock; every failure is a `BrokenError` of a stable kind
    hrt.py       the `hrt_model_exec` dialect: command lines, consoles, dumps
    device.py    what the ladder asks of a board: health, model_info, infer, perf
    virtual/     a real SSH server over the vendor's simulator, driven by the same command lines

This file imports nothing: `virtual/hrt` runs inside the vendor environment.
"""
