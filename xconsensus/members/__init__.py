"""Members of a committee: what they are, their networks and weights."""
