"""The whole cluster on one machine, and every stand-in that this takes."""
