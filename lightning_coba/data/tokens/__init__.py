"""Rows to tokens: encoding, splits and what is kept of them between runs."""
