"""The process groups of a generation."""
