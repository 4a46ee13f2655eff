"""A stranger's package in which nothing works; `no_syntax.py` is written by the tests."""
