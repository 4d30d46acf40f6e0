"""AWS errors as the JSON protocols carry them."""

from __future__ import annotations

import json

from dataplane.protocol.errors import MrgcError

JSON_TYPE = "application/x-amz-json-1.1"


class AwsError(MrgcError):
    """A refusal with AWS's code; `status` is HTTP's."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        """Keep code, sentence and status."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    def body(self) -> bytes:
        """Return the JSON body, with the field that botocore reads the code from."""
        return json.dumps({"__type": self.code, "message": self.message}).encode()
