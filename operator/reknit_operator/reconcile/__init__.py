"""The loop that drives a job: observe, decide (pure), apply."""
