"""What the proxy writes down: one JSON object per line, in a file that never grows beyond its share."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import cast

import structlog

from cnap_runner.egress.proxy_state import LOG_FILE
from cnap_runner.egress.rights import make_log_folder

LOG_BYTES = 2 << 20
"""Size from which on a new file is begun; one old file is kept."""


def open_log(folder: Path) -> structlog.stdlib.BoundLogger:
    """Open the proxy's log. For the proxy's own process: it takes over the whole process's logging."""
    path = folder / LOG_FILE
    make_log_folder(path.parent)
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    # Rotated by the name that was given: the whole path may be closed to the user that the proxy becomes.
    handler.baseFilename = str(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    return logger()


def logger() -> structlog.stdlib.BoundLogger:
    """Give the proxy's logger, whose lines go where the process's logging goes."""
    wrapped = structlog.wrap_logger(
        logging.getLogger(__name__),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", wrapped)
