"""Which samples a step trains on, and how they get there: order, loading, data sets, ledger."""

from reknit.data.datasets import Arrays, ByteFiles, TokenFile

__all__ = ["Arrays", "ByteFiles", "TokenFile"]
