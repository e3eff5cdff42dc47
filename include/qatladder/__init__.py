"""QATLadder: nightly validation of quantised models on NPUs, rung by rung.

This package imports nothing on its own: `qatladder.runner` and `qatladder.numerics` must load on
Python 3.8 with numpy alone, inside a model's own environment.
"""

__version__ = "0.1.0"
