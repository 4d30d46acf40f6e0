# The demo, for systems that are not Linux: three regions in one container, with the synthetic engine.
#   docker build --tag mrgc-demo . && docker run --rm --init mrgc-demo
# Programs that AWS runs have images of their own, below dataplane/.
FROM python:3.13-slim
# Of make any version will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /mrgc
COPY pyproject.toml uv.lock README.md LICENSE Makefile ./
COPY scripts scripts
COPY components components
COPY dataplane dataplane
COPY observability observability
COPY policies policies
COPY stacks stacks
RUN make .venv/.stamp-local
ENV COLUMNS=120
# A container's PID 1 reaps what its children leave: `--init` gives it one that does.
CMD ["make", "demo", "ENGINE=synthetic"]
