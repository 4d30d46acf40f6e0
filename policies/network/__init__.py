"""The network pack: addresses, ways in and out, the mesh, logs, encryption at rest, tables, the accelerator."""
