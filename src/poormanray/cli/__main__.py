"""Let `python -m poormanray.cli` be `pmr`."""

from poormanray.cli import main

main()
