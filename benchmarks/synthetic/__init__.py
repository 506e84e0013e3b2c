"""People who do not exist: the CC0 body anny, dressed, painted and moved by rules, as data sets."""
