"""The stages: plumbing between the config, the pure modules and the store."""
