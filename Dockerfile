# The images of the two services and of the example, from one set of files:
#
#   docker build --target coordinator -t leveret-coordinator .
#   docker build --target worker -t leveret-worker .
#   docker build --target example -t leveret-example .
#
# PIP_… are pip's own settings, for a mirror of the package index; they stay in the first stage.

ARG BASE=python:3.12-slim

# -- leveret and what it needs, in a virtual environment ------------------------------------------
FROM ${BASE} AS built
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/leveret
ENV PATH=/opt/leveret/bin:$PATH
WORKDIR /source
# Apart from the source, so that a change there downloads nothing.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['fast'], sep='\n')" > /requirements.txt \
    && pip install --quiet --requirement /requirements.txt
COPY LICENSE README.md CHANGELOG.md ./
COPY broker broker
COPY coordinator coordinator
COPY sdk sdk
COPY worker worker
RUN pip wheel --quiet --no-deps --wheel-dir /wheels . \
    && pip install --quiet --no-deps /wheels/*.whl

# -- what both services have in common ------------------------------------------------------------
FROM ${BASE} AS service
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp leveret
COPY --from=built /opt/leveret /opt/leveret
ENV PATH=/opt/leveret/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LEVERET_LOG_FORMAT=json
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["leveret", "health"]

# -- the coordinator: its catalog is on the volume ------------------------------------------------
FROM service AS coordinator
RUN install --directory --owner leveret --group leveret /var/lib/leveret
VOLUME /var/lib/leveret
ENV LEVERET_CATALOG=/var/lib/leveret/catalog.sqlite
WORKDIR /var/lib/leveret
USER 10001:10001
ENTRYPOINT ["leveret", "coordinator"]

# -- the worker: your image names what to serve ---------------------------------------------------
#
#   FROM leveret-worker
#   COPY app.py .
#   CMD ["app.py"]
FROM service AS worker
RUN install --directory --owner leveret --group leveret /var/cache/leveret
VOLUME /var/cache/leveret
ENV LEVERET_PAYLOAD_CACHE=/var/cache/leveret \
    PYTHONPATH=/app
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["leveret", "worker"]

# -- a worker that serves the example, with the libraries that this needs -------------------------
FROM built AS built-example
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
RUN pip install --quiet "$(ls /wheels/*.whl)[examples]"

FROM worker AS example
COPY --from=built-example /opt/leveret /opt/leveret
COPY examples/train_and_pick.py ./
CMD ["train_and_pick.py"]
