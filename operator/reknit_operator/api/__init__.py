"""The DistributedTrainingJob: its types, defaults, validation and schema; pure, no client."""
