# The server, in an image that runs as an unprivileged user.
#
#   docker build -t headwater .
#   docker run -p 127.0.0.1:4323:4323 -v headwater:/data headwater
#
# Until the first user is added, anybody who can reach the port can read and write. Add a user to
# the volume while no server runs on it, before you open the port to others:
#
#   docker run -it --rm -v headwater:/data headwater user add ann --data /data

FROM python:3.12-slim AS build
WORKDIR /source
# With a C compiler, the install compiles the hot modules. Without one, the server is slower.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN python -m venv /opt/headwater
COPY . .
RUN /opt/headwater/bin/pip install --no-cache-dir ".[server]"

FROM python:3.12-slim
RUN useradd --system --uid 10323 --no-create-home headwater \
 && install -d -o headwater -g headwater -m 0700 /data /run/headwater
COPY --from=build /opt/headwater /opt/headwater
# Settings are in the environment, so that `serve` with other options still has them. The Unix socket
# is for the health check and for `docker exec … headwater stats`: it works with and without TLS.
ENV PATH=/opt/headwater/bin:$PATH \
    PYTHONUNBUFFERED=1 \
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
ENTRYPOINT ["headwater"]
CMD ["serve"]
