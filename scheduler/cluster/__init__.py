"""Lease, members and claims: which partitions this replica owns."""
