# A small image of the gateway: built in one stage, run in another that has neither compiler nor package cache.

# The full image has the C compiler that the data plane is built with (setup.py); the one that runs needs none.
FROM python:3.12 AS build
WORKDIR /src

# The dependencies first: they change less often than the code, so their layer is kept. Those of traces are among them.
COPY requirements-image.lock ./
RUN python -m venv /opt/gateway \
    && /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements-image.lock

COPY pyproject.toml setup.py README.md LICENSE ./
COPY gateway gateway
COPY models models
ENV CANARY_GATEWAY_COMPILED=1
RUN /opt/gateway/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/gateway/bin/pip install --no-cache-dir --no-deps /wheels/canary_gateway-*.whl

FROM python:3.12-slim
LABEL org.opencontainers.image.title="canary-gateway" \
      org.opencontainers.image.description="A canary serving gateway in front of two versions of a model" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim"
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1

COPY --from=build /opt/gateway /opt/gateway
COPY config/gateway.yaml /etc/gateway/gateway.yaml

# What is in this image, Debian's packages and Python among it, and under which licences
RUN --mount=type=bind,source=deploy/sbom.py,target=/run/sbom.py \
    /opt/gateway/bin/python /run/sbom.py --system /opt/gateway/share/doc/canary-gateway

# The configuration's state_dir is `state` beside the file. It leads to the volume, so that the journal of rollouts
# outlives the container: without it a version that was rolled back could be offered again.
RUN install --directory --owner=65532 --group=65532 /var/lib/gateway \
    && ln -s /var/lib/gateway /etc/gateway/state
VOLUME /var/lib/gateway

# A number, so that an orchestrator can see that it is not root; the user needs no name and no home.
USER 65532:65532
EXPOSE 8080

HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9900/healthz', timeout=2)"]

ENTRYPOINT ["gateway"]
CMD ["serve", "/etc/gateway/gateway.yaml"]
