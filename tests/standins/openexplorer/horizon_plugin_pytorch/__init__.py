"""A STAND-IN for horizon_plugin_pytorch, which the vendor does not publish. Python 3.8, torch 1.12.

It has the documented functions a deployment calls (`set_march`, `check_model`, `compile_model`, `perf_model`) and the operators a traced
int model consists of. What is below them is real: a network's integers are computed in torch as the BPU computes them, and
`compile_model` has the vendor's own compiler build the very same network, so that the int model and the hbm on the vendor's simulator can
be compared bit for bit. Only how a QAT network becomes an int model is another way: see `int_model`.
"""

from horizon_plugin_pytorch import march, operators, quantization

__all__ = ["march", "operators", "quantization"]
__version__ = "1.8.2+standin"
