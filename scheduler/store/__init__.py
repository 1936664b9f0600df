"""Keys, encodings and transactions: what lies in etcd and how it is written."""
