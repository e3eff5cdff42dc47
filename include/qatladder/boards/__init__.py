"""Boards: how the ladder reaches a board, what it runs there, and the virtual board that stands in for one.

    fleet.py      which boards there are (fleet.yaml); jump.py the hosts in front of them
    taxonomy.py   what can go wrong, and what to do about it
    session.py    one SSH connection: run a command, stream what it says
    transfer.py   files to and from a board, by content
    jobs.py       detached work on a board, found again by its name
    dialects.py   what the builds of `hrt_model_exec` can; hrt/ its command lines, consoles, dumps
    device.py     what the ladder asks of a board: health, model_info, infer, perf, the user's program
    onboard/      what is sent to a board and runs there
    golden.py     a model with known integers; state.py what is known of a board between runs
    verifier.py   the tables of the J6 verifier
    virtual/      a real SSH server over the vendor's simulator, driven by the same command lines

This file imports nothing: `virtual/hrt` runs inside the vendor environment.
"""
