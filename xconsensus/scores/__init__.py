"""What explanations are measured by: average precision, correlations, committees."""
