"""Wrong numbers: found before they are applied, and traced to a rank or to the data."""
