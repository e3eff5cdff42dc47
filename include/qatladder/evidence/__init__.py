"""Evidence: files behind checks, addressed by content, in a folder or an S3 bucket, behind one small interface."""

from qatladder.evidence.store import Store, open_store

__all__ = ["Store", "open_store"]
