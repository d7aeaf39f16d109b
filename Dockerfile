FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY setup.cfg pyproject.toml README.md ./
COPY supervisor supervisor
COPY botproc botproc
RUN /opt/venv/bin/pip install '.[redis]' && /opt/venv/bin/pip uninstall -y pip

FROM python:3.13-slim
COPY --from=build /opt/venv /opt/venv
# The data directory belongs to the user that runs the program; a named volume mounted here takes that over.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin supervisor \
 && install -d -m 0700 -o supervisor -g supervisor /data
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    BOT_SUPERVISOR_HOST=0.0.0.0 \
    BOT_SUPERVISOR_DATA_DIR=/data
USER supervisor
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["python", "-m", "supervisor"]
