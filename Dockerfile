# The server and the console, in an image that runs as an unprivileged user.
#
#   docker build -t headwater .
#   docker run -p 127.0.0.1:4323:4323 -v headwater:/data headwater
#
# Until the first user is added, anybody who can reach the port can read and write. Add a user to
# the volume while no server runs on it, before you open the port to others:
#
#   docker run -it --rm -v headwater:/data headwater user add ann --data /data
#
# The server writes to /data and /run/headwater only, so it also runs on a read-only root:
#
#   docker run --read-only --tmpfs /run/headwater:uid=10323,mode=0700 …
#
# To pin the base image as well, give its digest: --build-arg BASE=python:3.13-slim-trixie@sha256:…

ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /source
# With a C compiler, the install compiles the hot modules. Without one, the server is slower.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
# First what seldom changes: while these two files stay, later builds take this layer from the cache.
COPY pyproject.toml deploy/container/pins.txt ./
RUN python -m venv /opt/headwater && python -m venv /opt/build \
 && python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
print(*project["build-system"]["requires"], sep="\n", file=open("build.txt", "w")); \
project = project["project"]; extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras["server"], *extras["console"], sep="\n", \
file=open("server.txt", "w"))' \
 && /opt/headwater/bin/pip install --no-cache-dir -r server.txt -c pins.txt \
 && /opt/build/bin/pip install --no-cache-dir -r build.txt
COPY . .
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/headwater/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Headwater" \
      org.opencontainers.image.description="A database for event-sourced applications" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN useradd --uid 10323 --no-create-home --shell /usr/sbin/nologin headwater \
 && install -d -o headwater -g headwater -m 0700 /data /run/headwater
COPY --from=build /opt/headwater /opt/headwater
# Settings are in the environment, so that `serve` with other options still has them. The Unix socket
# is for the health check and for `docker exec … headwater stats`: it works with and without TLS.
ENV PATH=/opt/headwater/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HEADWATER_DATA=/data \
    HEADWATER_LISTEN=0.0.0.0:4323 \
    HEADWATER_UNIX=/run/headwater/socket \
    HEADWATER_URL=headwater+unix:///run/headwater/socket
USER headwater
VOLUME /data
EXPOSE 4323
# A ping without a user shows that the server answers, and reveals nothing else.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["headwater", "ping", "--url", "headwater+unix:///run/headwater/socket"]
# `docker stop` sends SIGTERM and kills after 10 seconds. Before that the server shuts down cleanly:
# it gives open transactions 5 seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["headwater"]
CMD ["serve"]
