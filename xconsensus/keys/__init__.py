"""Every key of the config: what it takes, and what is said of one that does not exist."""
