"""An emulator of AWS Global Accelerator in front of one network load balancer per region.

`rules` decides, `health` counts checks, both pure; `relay` moves bytes, `probe` asks the routers, `admin` takes
changes, `__main__` joins them. What it does not emulate is said in docs/local-stack.md.
"""
