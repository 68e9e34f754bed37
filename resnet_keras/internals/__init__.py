"""Uses of names that other libraries keep private, where nothing public will do; a module for each.

Each function says which private thing it reaches and with which versions that was tested.
`tests/test_internals.py` names the ones that a new version has moved, and finds any use of such
things elsewhere in this package.
"""
