"""What operator, coordinator, agents and ranks say to each other: plain values, no I/O."""
