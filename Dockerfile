# The gateway. Its packages are those of requirements/base.txt and of traces.txt, for who sends traces;
# every one is checked by its hash.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS packages
COPY requirements/base.txt requirements/traces.txt /tmp/
# pip stays behind in this stage.
RUN python3 -m venv --without-pip /venv \
 && python3 -m pip --python /venv/bin/python3 install --no-cache-dir --no-deps --require-hashes \
      --disable-pip-version-check --root-user-action ignore \
      --requirement /tmp/base.txt --requirement /tmp/traces.txt

FROM ${PYTHON_IMAGE}
COPY --from=packages /venv /venv
COPY llm_backend /app/llm_backend
COPY config /app/config
# Compiled here, because the file system is read-only when it runs.
RUN /venv/bin/python3 -m compileall -q /app/llm_backend
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 LLM_BACKEND_ROOT=/app
WORKDIR /app
USER 1000:1000
EXPOSE 7000
ENTRYPOINT ["python3", "-m", "llm_backend"]
CMD ["serve"]
