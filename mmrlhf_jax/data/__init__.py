"""Where examples come from: pictures with names, preference files, safe image decoding, tokens."""
