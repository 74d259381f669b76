"""``python -m cnap_runner`` is ``cnap-runner``."""

from cnap_runner.cli import main

main()
