"""Every span and attribute name, in one place, so that dashboards and tests name what the code emits."""

from __future__ import annotations

from typing import Final

# Spans, in the order in which a request meets them.
TENANT_REQUEST: Final = "tenant.request"
TENANT_KMS: Final = "kms.generate_data_key"
TENANT_SEAL: Final = "tenant.seal"
ROUTER_ROUTE: Final = "router.route"
ROUTER_FORWARD: Final = "router.forward"
PARENT_INFERENCE: Final = "parent.inference"
ENCLAVE_REQUEST: Final = "enclave.request"
KMS_DECRYPT: Final = "kms.decrypt"
ENCLAVE_OPEN: Final = "enclave.open"
WORKER_GENERATE: Final = "worker.generate"
ENCLAVE_SEAL: Final = "enclave.seal"
TENANT_OPEN: Final = "tenant.open"

# Parts of `worker.generate` that are told to the tenant alone, sealed beside the receipt; never spans that leave.
WORKER_FIRST_PIECE: Final = "worker.first_piece"
WORKER_STREAM: Final = "worker.stream"

SPANS: Final = (
    TENANT_REQUEST,
    TENANT_KMS,
    TENANT_SEAL,
    ROUTER_ROUTE,
    ROUTER_FORWARD,
    PARENT_INFERENCE,
    ENCLAVE_REQUEST,
    KMS_DECRYPT,
    ENCLAVE_OPEN,
    WORKER_GENERATE,
    ENCLAVE_SEAL,
    TENANT_OPEN,
)

# Attributes that any party may set: identifiers, counts and outcomes, never anything that was sealed.
TENANT: Final = "mrgc.tenant"
MODEL_POOL: Final = "mrgc.model_pool"
REQUEST_ID: Final = "mrgc.request_id"
INSTANCE: Final = "mrgc.instance"
ATTEMPT: Final = "mrgc.attempt"
ATTEMPTS: Final = "mrgc.attempts"
SCORE: Final = "mrgc.score"
PROBLEM: Final = "mrgc.problem"
ASSURANCE: Final = "mrgc.assurance"
KMS_REGION: Final = "mrgc.kms.region"
CACHED_KEY: Final = "mrgc.kms.cached"
FRAMES: Final = "mrgc.frames"
CIPHERTEXT_BYTES: Final = "mrgc.ciphertext_bytes"
HTTP_STATUS: Final = "http.response.status_code"

ENGINE: Final = "mrgc.engine"

# Class S of observability/disclosure.py: no span may carry these; four of them are OpenTelemetry's generative-AI names
# (semantic conventions 0.66).
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "mrgc.cached_tokens"
TTFT_MS: Final = "mrgc.time_to_first_token_ms"

ALLOWED_ATTRIBUTES: Final = frozenset(
    {
        TENANT,
        MODEL_POOL,
        REQUEST_ID,
        INSTANCE,
        ATTEMPT,
        ATTEMPTS,
        SCORE,
        PROBLEM,
        ASSURANCE,
        KMS_REGION,
        CACHED_KEY,
        FRAMES,
        CIPHERTEXT_BYTES,
        HTTP_STATUS,
        ENGINE,
    }
)
"""The only attributes that a span may carry; `Telemetry.span` refuses any other, and a relayed span carries fewer."""
