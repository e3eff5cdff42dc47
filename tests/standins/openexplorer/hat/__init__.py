"""A STAND-IN for HAT, which the vendor does not publish: registry, configurations and the converters that predictors name."""

from hat import converters

__all__ = ["converters"]
