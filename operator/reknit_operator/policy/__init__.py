"""Pure decisions, one file per policy: values in, values out, no clock and no I/O."""
