"""The GPU worker: engines behind one interface and one Unix socket."""
