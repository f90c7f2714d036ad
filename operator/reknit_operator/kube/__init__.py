"""The operator in a cluster: the only part that imports kopf or a Kubernetes client."""
