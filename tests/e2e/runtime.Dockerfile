# The runtime image of these tests: Reknit and its examples, but no torch, which takes gigabytes.
# Pods mount an environment that has it, and that environment's Python, under their own names.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG ENVIRONMENT
ARG PYTHON
# Training does not run as root, and has to pass through the folders above.
RUN for folder in "${ENVIRONMENT}" "${PYTHON}"; do \
      mkdir -p "${folder}"; \
      while [ "${folder}" != / ]; do chmod 755 "${folder}"; folder=$(dirname "${folder}"); done; \
    done \
 && groupadd --gid 1000 reknit \
 && useradd --uid 1000 --gid 1000 --create-home reknit
COPY operator /opt/reknit/operator
COPY runtime /opt/reknit/runtime
COPY examples/gpt_bytes/gpt_bytes.py examples/digits/digits.py /workspace/
ENV PATH=${ENVIRONMENT}/bin:${PATH} PYTHONPATH=/opt/reknit/runtime:/opt/reknit/operator \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu
WORKDIR /workspace
USER 1000:1000
CMD ["python", "-m", "reknit.agent"]
