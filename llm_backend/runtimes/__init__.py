"""The drivers that start, stop and poll engines."""
