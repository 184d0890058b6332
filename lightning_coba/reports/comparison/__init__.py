"""Compare the methods of finished runs."""
