"""The reader of artefacts under the name that notebooks know it by; it lives in `xconsensus.store.shards`."""

from xconsensus.store.shards import Shards

__all__ = ["Shards"]
