"""The way from an app's side to all schedulers: the host list, unary calls, streams of triggers. The sidecar and the client stand on it."""
