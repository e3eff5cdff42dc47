"""`hrt_model_exec` of the virtual board. Python 3.10, numpy, protobuf: it runs in the vendor environment.

`.hbm` and `.bin` models are executed bit by bit by hbdk-sim; the few CPU operators around the BPU in a `.bin` run in numpy.
Imports are kept few: one inference starts one process.
"""
