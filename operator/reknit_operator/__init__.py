"""Reknit on Kubernetes: the operator, the local backend and the command line."""
