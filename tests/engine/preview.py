"""`make preview`: the program as the engine sees it, with the provider stand-in and no account of any kind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.engine.engine import COMMAND_TIMEOUT_S, MISSING, ROOT, installed, scratch, stack_values


def main(stack: str) -> int:
    """Preview a stack's configuration in a throw-away stack; the engine's output goes straight to the terminal."""
    file = ROOT / "stacks" / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(one.name.split(".")[1] for one in file.parent.glob("Pulumi.*.yaml")))
        print(f"make preview: there is no stack {stack!r}; STACK is one of {known}.", file=sys.stderr)  # noqa: T201 - as below
        return 1
    if not installed():
        print(f"make preview: {MISSING}.", file=sys.stderr)  # noqa: T201 - a command says why it failed
        return 1
    print(  # noqa: T201 - a command says what it shows
        f"Previewing {stack} in a throw-away stack, with a stand-in for the AWS provider: no AWS account, no Pulumi "
        "account. It shows what the program asks for; whether AWS accepts it only the real provider can say."
    )
    with (
        tempfile.TemporaryDirectory(prefix="mrgc-preview-") as home,
        scratch(Path(home), values=stack_values(stack)) as engine,
    ):
        return subprocess.run(
            ["pulumi", "preview", "--stack", engine.stack],
            cwd=engine.program,
            env=engine.environment(),
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "dev"))
