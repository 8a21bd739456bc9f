"""Pauses garbage collection while an entry file imports packages. Each imports this file first.

Imports make half a million objects and next to no garbage, but the collector would visit all of them again and again:
a quarter of the time that the imports take.

This is the one module that changes something when it is imported: after a call between the imports of an entry file,
the linter would object to each of the imports that follow. It changes the interpreter and keeps no state of its own. If
an import fails, collection stays off in a process that ends with that error.
"""

import gc

gc.disable()


def collect_garbage_again() -> None:
    """Resume garbage collection. All objects that exist now are kept, and later collections skip them."""
    gc.freeze()
    gc.enable()
