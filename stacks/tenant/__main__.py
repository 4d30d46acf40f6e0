"""The program that `pulumi up` runs in this folder; see docs/tenant-key.md."""

from stacks.tenant.program import main

main()
