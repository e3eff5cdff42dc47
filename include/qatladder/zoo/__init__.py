"""Zoo entries: what a model is, where its artifacts are, what it is held against."""

from qatladder.zoo.load import Zoo, load_entry, load_zoo
from qatladder.zoo.schema import Entry, Gate, InputSpec, Target

__all__ = ["Entry", "Gate", "InputSpec", "Target", "Zoo", "load_entry", "load_zoo"]
