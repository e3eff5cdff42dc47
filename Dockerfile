# One image for every QATLadder service; the service is the command (see docker-compose.yaml).
#
#   docker build -t qatladder .                          with the vendor's compiler and simulator
#   docker build --build-arg VENDOR=0 -t qatladder .     without: float, calib and qat only
#
# The vendor's packages are proprietary: do not publish an image that was built with them.

FROM python:3.10.18-slim-bookworm AS vendor
ARG VENDOR=1
WORKDIR /opt/qatladder
COPY requirements-vendor.txt ./
RUN python -m venv .venv-vendor \
    && if [ "$VENDOR" != 0 ]; then .venv-vendor/bin/pip install --no-cache-dir --no-deps -r requirements-vendor.txt; fi

FROM python:3.11.13-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libgomp1 openssh-client tini \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/qatladder
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-deps -r requirements.txt \
    && (python -c 'import torch' || pip install --no-cache-dir "$(grep '^torch==' requirements.txt)")

# Python 3.10 beside 3.11: both images are built on the same Debian, and their files do not meet.
COPY --from=vendor /usr/local/bin/python3.10 /usr/local/bin/
COPY --from=vendor /usr/local/lib/python3.10 /usr/local/lib/python3.10
COPY --from=vendor /usr/local/lib/libpython3.10.so.1.0 /usr/local/lib/
COPY --from=vendor /opt/qatladder/.venv-vendor .venv-vendor
RUN ldconfig && ln -sf /usr/local/bin/python3.10 .venv-vendor/bin/python

COPY pyproject.toml README.md ./
COPY include include
COPY dags dags
COPY plugins plugins

ENV PYTHONPATH=/opt/qatladder/include \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow \
    QATLADDER_HOME=/var/lib/qatladder
RUN useradd --uid 50000 --create-home qatladder \
    && mkdir -p "$AIRFLOW_HOME/logs" "$QATLADDER_HOME" \
    && chown -R qatladder:qatladder "$AIRFLOW_HOME" "$QATLADDER_HOME"
USER qatladder
ENTRYPOINT ["tini", "--", "python", "-m", "qatladder.airflow.services", "run"]
CMD ["api-server"]
