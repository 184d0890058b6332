"""Which row goes into which optimizer step, for any number of micro-batches and processes."""
