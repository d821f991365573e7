"""Low-level code, each piece a torch operation or beside a torch twin that tests hold it to."""
