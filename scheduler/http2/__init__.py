"""HTTP/2 for gRPC, both roles: a sans-I/O connection and thin asyncio shells."""
