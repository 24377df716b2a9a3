"""Jobs: the process, what it works on, how it ends, and the parts of a sweep."""
