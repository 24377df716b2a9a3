"""The Hydra configuration, as a package so that it is found from an installed wheel too."""

import xconsensus.keys.schema  # noqa: F401  which is the base of every stage's file
