"""What every check answered, every night: facts written once, asked with SQL."""

from qatladder.history.facts import facts_of, write_facts
from qatladder.history.query import History

__all__ = ["History", "facts_of", "write_facts"]
