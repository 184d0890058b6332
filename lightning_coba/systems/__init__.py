"""One package per published system; a package's docstring says what it is, what it needs and what it gives."""

import pkgutil

__all__ = sorted(package.name for package in pkgutil.iter_modules(__path__) if package.ispkg)
