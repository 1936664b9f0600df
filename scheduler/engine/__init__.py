"""Timers, job life cycles and progress of the owned partitions."""
