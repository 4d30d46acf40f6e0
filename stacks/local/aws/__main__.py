"""`python -m stacks.local.aws`: the embedded AWS, from its environment."""

from __future__ import annotations

import time

from aiohttp import web
from cryptography import x509

from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.mesh.tls import server_context
from dataplane.protocol.errors import MrgcError, SettingsError
from stacks.local.aws.app import EmbeddedAws
from stacks.local.aws.principals import Directory, PrincipalsFile
from stacks.local.aws.settings import AwsSettings

CLOSE_TIMEOUT_S = 1.0
"""Nothing here is worth waiting for: clients retry, and the state ends with the process."""


class PortError(MrgcError):
    """A port that can't be listened on."""


async def main(settings: AwsSettings, stop: Stop) -> None:
    """Serve until asked to stop."""
    principals = PrincipalsFile.read(settings.principals_file)
    directory = Directory(
        principals.principals,
        role_arn=principals.role_arn,
        clock_ms=_clock_ms,
        lifetime_s=settings.role_lifetime_s,
    )
    aws = EmbeddedAws(
        directory=directory, nsm_roots=_roots(settings), spans_file=settings.spans_file, clock_ms=_clock_ms
    )
    runner = web.AppRunner(aws.application(), access_log=None, shutdown_timeout=CLOSE_TIMEOUT_S)
    try:
        await runner.setup()
        for site in _sites(runner, settings):
            try:
                await site.start()
            except OSError as error:
                raise PortError(f"{site.name} can't be listened on ({error.strerror}).") from error
        await stop.wait()
    finally:
        await runner.cleanup()


def _sites(runner: web.AppRunner, settings: AwsSettings) -> list[web.TCPSite]:
    sites = [web.TCPSite(runner, settings.aws_http_host, settings.aws_http_port)]
    if settings.aws_https_port is not None and settings.tls_cert_file is not None and settings.tls_key_file is not None:
        context = server_context(settings.tls_cert_file, settings.tls_key_file)
        sites.append(web.TCPSite(runner, settings.aws_http_host, settings.aws_https_port, ssl_context=context))
    return sites


def _roots(settings: AwsSettings) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(settings.nsm_root_file.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"NSM_ROOT_FILE {settings.nsm_root_file} can't be read as a certificate ({error})."
        ) from error


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    run_sidecar(AwsSettings, main, service="aws")
