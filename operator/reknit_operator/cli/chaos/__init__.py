"""`reknit chaos`: disturbs a running job at random."""
