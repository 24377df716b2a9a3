"""An experiment: its checked config, its artefacts and what shapes them, its members' explanations."""
