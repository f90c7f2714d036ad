"""The command line: `reknit validate | plan | run | top | report`."""
