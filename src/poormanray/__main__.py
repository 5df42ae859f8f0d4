"""Let `python -m poormanray` be `pmr`."""

from poormanray.cli import main

main()
