"""Pure functions from a job to the Kubernetes objects it needs, one file per kind."""
