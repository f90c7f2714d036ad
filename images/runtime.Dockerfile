# Agents and ranks: torch, DeepSpeed and the examples. Built from the root of the repository:
#   docker build -f images/runtime.Dockerfile -t reknit/runtime:0.1.0 .
# An image of your own begins with `FROM reknit/runtime:0.1.0`.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/runtime.txt requirements/
RUN python3 -m venv /opt/reknit \
 && /opt/reknit/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY runtime runtime
# Compiled ahead: without its bytecode, importing torch takes several times as long.
RUN /opt/reknit/bin/pip install --no-cache-dir --no-deps . \
 && /opt/reknit/bin/python -m compileall -q /opt/reknit/lib

FROM ${BASE_IMAGE}
# A C compiler, for programs that have torch or triton compile their kernels.
ARG SYSTEM_PACKAGES="gcc libc6-dev"
RUN if [ -n "${SYSTEM_PACKAGES}" ]; then \
      apt-get update && apt-get install -y --no-install-recommends ${SYSTEM_PACKAGES} \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
 && groupadd --gid 1000 reknit \
 && useradd --uid 1000 --gid 1000 --create-home reknit
COPY --from=build /opt/reknit /opt/reknit
COPY examples/gpt_bytes/gpt_bytes.py examples/digits/digits.py \
    examples/federated_digits/federated_digits.py examples/recommendation/recommendation.py /workspace/
ENV PATH=/opt/reknit/bin:${PATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
WORKDIR /workspace
USER 1000:1000
CMD ["python", "-m", "reknit.agent"]
