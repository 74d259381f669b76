"""Entry of the launcher, run by path: ``python -I -S …/process_launcher/__main__.py FOLDER …``."""

import sys
import types
from pathlib import Path


def _skip_package_init() -> None:
    """Stand in for ``cnap_runner``, whose own ``__init__`` imports everything and would cost more than the launcher's work."""
    package = types.ModuleType("cnap_runner")
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["cnap_runner"] = package


_skip_package_init()

from cnap_runner.backends.process_launcher.launch import main  # noqa: E402

main(sys.argv[1:])
