"""The training step and everything around it that all ranks do together."""
