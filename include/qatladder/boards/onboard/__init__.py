"""What is sent to a board and runs there: `loop.sh` (POSIX sh) and `stream.py` (Python 3.6+, standard library and the board's bindings)."""
