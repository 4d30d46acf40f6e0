"""A whole parent between a fake enclave and a fake worker."""

from tests.support.parent_host import free_port, host

__all__ = ["free_port", "host"]
