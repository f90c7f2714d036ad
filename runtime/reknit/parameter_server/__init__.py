"""Parameter servers: ranges of the model, each held by a primary and a backup."""
