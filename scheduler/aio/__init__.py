"""Small things around the event loop: the clock, the health and metrics endpoint."""
