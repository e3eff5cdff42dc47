"""Runs code inside a model's own environment: a job file in, tensors and a result file out.

Must import on Python 3.8 with numpy alone.
"""
