"""Replay balancers on the losses of a past run."""
