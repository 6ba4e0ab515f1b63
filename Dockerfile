# syntax=docker/dockerfile:1
ARG PYTHON_VERSION=3.13

# Build: packages come as wheels whose hashes the lock file names; nothing is compiled.
FROM python:${PYTHON_VERSION}-slim AS build
RUN python -m venv --without-pip /opt/quiesce
COPY requirements.lock /tmp/requirements.lock
RUN python -m pip --python /opt/quiesce/bin/python install \
        --no-cache-dir --disable-pip-version-check \
        --only-binary=:all: --require-hashes --requirement /tmp/requirements.lock
COPY app /srv/quiesce/app
COPY workers /srv/quiesce/workers
# Bytecode is made here, because the service may not write to its own folders.
RUN /opt/quiesce/bin/python -m compileall -q /srv/quiesce

# Run: the interpreter, the packages, the source.
FROM python:${PYTHON_VERSION}-slim
RUN groupadd --system --gid 10001 quiesce \
    && useradd --system --uid 10001 --gid quiesce --no-create-home --home-dir /data quiesce \
    && install --directory --owner=quiesce --group=quiesce --mode=0700 /data
COPY --from=build /opt/quiesce /opt/quiesce
COPY --from=build /srv/quiesce /srv/quiesce
ENV PATH=/opt/quiesce/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QUIESCE_HOST=0.0.0.0 \
    QUIESCE_PORT=8000 \
    QUIESCE_DATA_DIR=/data
WORKDIR /srv/quiesce
# By number, so that an orchestrator can see it is not root.
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8000

# Liveness, not readiness: whoever restarts an unhealthy container must not restart a draining one, nor
# one whose disk is full. The start period is for one that has very many batches to go on with.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['QUIESCE_PORT']), timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]

# The service handles signals itself, also as process 1. Add an init (docker run --init, or
# `init: true` as docker-compose.yml has it) to reap what a lost warden may leave behind, and give
# `docker stop` more time than the service takes: --stop-timeout 60.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "app", "serve"]
