"""The job's membership: who is which rank, in which generation, and how the job ends."""
