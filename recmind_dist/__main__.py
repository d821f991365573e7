"""`python -m recmind_dist …`."""

from recmind_dist.cli import main

main()
