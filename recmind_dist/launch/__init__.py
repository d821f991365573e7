"""Where training runs: Ray Train workers or this process, and the nodes it may run on."""
