"""Let Keras know classes of this package, without loading Keras for whoever does not use it.

Keras reads a saved model only if the classes of its parts are registered, which they are when their
module is imported. That needs Keras, and `import resnet_keras` alone does not load it.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


def after_keras(module: str) -> None:
    """Import a module as soon as Keras is imported: at once, if it is there already.

    Args:
        module: its full name. What it imports, directly or not, must not be what has imported
            Keras for the first time and is only half there.
    """
    if "keras" in sys.modules:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _Finder(module))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds Keras as everybody does, and has a module imported after it."""

    def __init__(self, module: str):
        self.module = module
        self.searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find Keras, and nothing else."""
        if name != "keras" or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads Keras as its own loader does, then imports the module."""

    def __init__(self, loader: importlib.abc.Loader, finder: _Finder):
        self.loader, self.finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load Keras, then import the module."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        sys.meta_path.remove(self.finder)
        importlib.import_module(self.finder.module)
