"""The command line: parses, calls, prints. Needs the extra ``corrmask[cli]``."""
