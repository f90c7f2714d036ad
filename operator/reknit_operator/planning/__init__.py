"""What a job will look like before it runs: world, batches, memory, redundancy. All pure."""
