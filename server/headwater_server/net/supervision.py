"""What the process tells those who watch over it, and what it hears from them.

It tells by its log, by the ready file and by its exit status. It hears SIGHUP: the certificate was
renewed.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from headwater_server.engine.engine import Engine
from headwater_server.net.drivers.listening import CannotListen
from headwater_server.net.drivers.tls import Certificate
from headwater_server.net.settings import ServerSettings

_log = structlog.get_logger(__name__)


def tell(
    settings: ServerSettings,
    addresses: list[str],
    engine: Engine,
    *,
    tls: bool,
    local_only: bool,
) -> None:
    """Log that the server listens, and on what."""
    _log.info(
        "listening",
        addresses=addresses,
        tls=tls,
        data=settings.data,
        commit=engine.published,
        users=engine.accounts.any(),
        backup_dir=settings.backup_directory,
        open_files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        pid=os.getpid(),
    )
    if not (tls or local_only):
        _log.warning(
            "other machines connect without TLS: everything but passwords can be read and changed "
            "on the way; --tls-cert prevents this",
            addresses=addresses,
        )
    if settings.backup_directory is not None and not Path(settings.backup_directory).is_dir():
        _log.warning("the directory for backups does not exist", path=settings.backup_directory)


@contextmanager
def ready_file(settings: ServerSettings, addresses: list[str]) -> Iterator[None]:
    """Write the file that says where the server listens, and remove it at the end."""
    if settings.ready_file is None:
        yield
        return
    # Rename it into place, so that nobody reads half a file.
    path = Path(settings.ready_file)
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text("".join(f"{address}\n" for address in addresses))
    # It says nothing that is secret, and who watches over the server may be another user.
    unfinished.chmod(0o644)
    unfinished.rename(path)
    try:
        yield
    finally:
        # A supervisor must not take it for that of the next start.
        path.unlink(missing_ok=True)


def reload(certificate: Certificate | None) -> None:
    """Read the certificate again. Without TLS, SIGHUP changes nothing: terminals send it too."""
    if certificate is None:
        _log.info("SIGHUP: there is no certificate to read again")
        return
    try:
        certificate.reload()
    except CannotListen as error:
        _log.error("the certificate was not read again; the old one stays", error=error.message)
    else:
        _log.info("the certificate was read again")


@contextmanager
def closing(engine: Engine) -> Iterator[None]:
    """Close the engine at the end. A failure of that must not hide why the server ends."""
    try:
        yield
    except BaseException:
        try:
            engine.close()
        except Exception as error:
            _log.error("closing the files failed too", error=str(error))
        raise
    engine.close()
