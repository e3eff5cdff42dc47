"""Announcements of trained models: what arrives, whether its ladder is to be climbed, and that none gets lost.

    form.py      the announcement: parsed, every mistake named
    inbox.py     what is known of each announcement, in the object store
    decide.py    run, duplicate, superseded, unknown or rejected
    places.py    folders and S3 prefixes that announcements are dropped into
    registry.py  versions of an MLflow model registry

Whatever the way it came, an announcement is first put into the inbox and only then taken away where it was. It stays there, pending, until its
DAG run exists or it is known why none is needed. Everything may be done twice, by anybody, and then nothing happens the second time: its
id follows from its content, and the id of its run from its id.

The sending end is `qatladder.announce`.
"""

from qatladder.announcements.decide import Decision, decide
from qatladder.announcements.form import Announcement, parse
from qatladder.announcements.inbox import Letter, letter_of, pending, problem_letter, receive, settle

__all__ = ["Announcement", "Decision", "Letter", "decide", "letter_of", "parse", "pending", "problem_letter", "receive", "settle"]
