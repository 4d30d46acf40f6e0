"""`pulumi up` runs this."""

from stacks.program import run

run()
