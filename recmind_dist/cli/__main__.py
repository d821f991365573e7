"""`python -m recmind_dist.cli …`."""

from recmind_dist.cli.app import main

main()
