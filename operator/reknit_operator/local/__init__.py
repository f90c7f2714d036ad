"""The embedded backend: an object store in memory, and pods that are local processes."""
