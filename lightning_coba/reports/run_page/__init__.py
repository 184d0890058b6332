"""One page about one run: how its tasks fared, and why."""
