"""The one description of training state: named tensors as flat intervals per rank."""
