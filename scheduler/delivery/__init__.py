"""Routes due triggers to connected streams."""
