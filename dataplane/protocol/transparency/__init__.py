"""The measurement log without its shell: hashes and proofs, signed notes, tiles, entries, and what a reader accepts."""
