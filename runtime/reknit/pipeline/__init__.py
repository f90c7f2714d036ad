"""Pipeline parallelism: which stage does what when, how a model is cut, and who carries it out."""
