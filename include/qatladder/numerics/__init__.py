"""Tensors: input types, colour, quantise, pad, compare. numpy only, Python 3.8 and later."""
