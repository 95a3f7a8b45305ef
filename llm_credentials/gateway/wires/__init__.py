"""The wires that programs speak to us, one file each: a request into our vocabulary, an answer back out of it."""
