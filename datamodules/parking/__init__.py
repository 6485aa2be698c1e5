"""A car park under many cameras, drawn in the format in which CNR-EXT was published."""
