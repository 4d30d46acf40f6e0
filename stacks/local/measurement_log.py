"""The local stack's own measurement log: a genuine log under a key made on the spot, so it proves nothing to anybody.

What a tenant does with it is the same as with a public one. Its entries are the local enclave's measurement and the
local model's digest; the enclave that is tampered with for the demo is not among them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dataplane.log.disk import Disk
from dataplane.log.headfile import HeadFile
from dataplane.log.keyfile import make_key, write_key
from dataplane.log.store import LogStore
from dataplane.protocol.transparency.entry import Entry
from dataplane.worker.pool import model_digest

NAME: Final = "mrgc.local/log"
VERSION: Final = "local"


def publish(folder: Path, key_file: Path, *, pcrs: Mapping[int, bytes], models: Mapping[str, Path]) -> str:
    """Make the log anew in `folder`, its key in `key_file`; returns the public key's text. Blocking.

    `models` are the model folders by pool.
    """
    shutil.rmtree(folder, ignore_errors=True)
    key = make_key(NAME)
    write_key(key_file, key)
    now_ms = time.time_ns() // 1_000_000
    entries = [
        Entry(kind="enclave", name="mrgc-enclave", version=VERSION, time_ms=now_ms, registers=pcrs),
        *(
            Entry(kind="model", name=pool, version=VERSION, time_ms=now_ms, digest=bytes.fromhex(model_digest(path)))
            for pool, path in models.items()
        ),
    ]
    log = LogStore(Disk(folder), key, signed=HeadFile(key_file.with_name(f"{key_file.name}.signed")))
    log.create(time_s=now_ms // 1000)
    log.append(entries, time_s=now_ms // 1000)
    return str(key.verifier)
