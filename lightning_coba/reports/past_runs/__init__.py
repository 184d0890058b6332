"""Read the validation losses of a past run, whichever tool kept them."""
