"""The readers of artefacts under the names that notebooks know them by; they live in `xconsensus.store`."""

from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensors, verify

__all__ = ["Shards", "read_header", "read_tensors", "verify"]
