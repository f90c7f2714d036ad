# The operator, and the coordinators of all jobs; no torch. Built from the root of the repository:
#   docker build -f images/operator.Dockerfile -t reknit/operator:0.1.0 .
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements/operator.txt requirements/
RUN python3 -m venv /opt/reknit \
 && /opt/reknit/bin/pip install --no-cache-dir --require-hashes -r requirements/operator.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY runtime runtime
RUN /opt/reknit/bin/pip install --no-cache-dir --no-deps . \
 && /opt/reknit/bin/python -m compileall -q /opt/reknit/lib

FROM ${BASE_IMAGE}
COPY --from=build /opt/reknit /opt/reknit
ENV PATH=/opt/reknit/bin:${PATH} PYTHONUNBUFFERED=1
USER 65532:65532
CMD ["python", "-m", "reknit_operator.kube", "--all-namespaces"]
