"""Options that several commands of `mrgc tenant` have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MeasurementsOption = Annotated[
    Path | None, typer.Option(envvar="MRGC_MEASUREMENTS", help="measurements.json of the allowed enclave images.")
]
ExpectModelOption = Annotated[
    list[str] | None,
    typer.Option(envvar="MRGC_EXPECT_MODEL", help="Digest of a model that may answer; may be given again."),
]
ExpectPcr0Option = Annotated[
    list[str] | None,
    typer.Option(envvar="MRGC_EXPECT_PCR0", help="PCR0 of an enclave image that may answer; may be given again."),
]
ExpectConfigOption = Annotated[
    list[str] | None,
    typer.Option(envvar="MRGC_EXPECT_CONFIG", help="Digest of a worker's configuration; may be given again."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
