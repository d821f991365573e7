"""`recmind report`: runs on one page, to look at, compare and keep."""
