"""The Hydra configuration, as a package so that it is found from an installed wheel too."""
