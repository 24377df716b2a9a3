"""How a network computes: in float32, in fewer bits, with batch normalisation folded."""
