# Container image: built with the make targets, run as an ordinary user, drained by SIGTERM.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gateway
COPY pyproject.toml requirements.lock Makefile README.md LICENSE hatch_build.py ./
COPY tools/build_pump.py tools/
COPY gateway gateway
COPY sip sip
COPY media media
COPY config config
COPY simulator simulator
RUN make .venv/.run && find . -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/gb-gateway gateway
WORKDIR /opt/gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GB_GATEWAY_STORAGE__DIRECTORY=/var/lib/gb-gateway/data \
    GB_GATEWAY_METRICS__HOST=0.0.0.0
USER gateway
VOLUME /var/lib/gb-gateway
# SIP, API and console, viewers, RTSP, metrics; RTP 20000-23999 and WebRTC 24000 are best given by host networking
EXPOSE 5060/udp 5060/tcp 8080/tcp 8081/tcp 8554/tcp 9281/tcp
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gb-gateway"]
CMD ["run"]
