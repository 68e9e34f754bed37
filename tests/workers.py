"""How many processes of pytest-xdist test: a hook of `conftest.py`."""


def pytest_xdist_auto_num_workers(config):
    """Three processes for the whole suite; chosen tests run in this one, so that -s shows them."""
    options = config.option
    chosen = options.file_or_dir or options.keyword or options.markexpr != "not slow"
    return 0 if chosen else 3
