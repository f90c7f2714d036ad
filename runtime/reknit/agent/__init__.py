"""Process 1 of every training pod: starts ranks, waits on them, tells the coordinator."""
