"""A small etcd v3 client: ranges, transactions, leases, watches; bytes only."""
