"""The wire protocol, version 1: sans-IO, no sockets and no clock of its own."""
