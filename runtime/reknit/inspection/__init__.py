"""The dry run behind `reknit validate` and `reknit plan`: the user's function, without training."""
