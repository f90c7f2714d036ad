"""How the ranks share a training step: one module per strategy. This package imports no torch."""
