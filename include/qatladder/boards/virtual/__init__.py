"""The virtual board: a real SSH and SFTP server whose `hrt_model_exec` runs models on the vendor's instruction-level simulator.

    server.py    the server, in the foreground
    control.py   start and stop it in the background
    hrt/         its hrt_model_exec, run by the vendor environment's interpreter

What it is not: fast, or a clock. Its `perf` states the compiler's estimate and says so.
This file imports nothing: `hrt` runs inside the vendor environment.
"""
