"""Run the command line as ``python -m hcviz`` (and under torchrun)."""

from hcviz.cli import main

main()
