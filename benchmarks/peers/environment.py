"""Where the peers are installed: environments of their own, which neither the project nor its users ever need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("BENCHMARK_PEERS_DIR", ROOT / "benchmarks" / ".peers"))


VARIABLES = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""Of the environment, what is right for a peer: its Python packages are not ours, and one is named as ours is."""


class Unavailable(Exception):
    """Why a peer is left out."""


def install_from_pypi(distribution: str) -> None:
    """Makes a virtual environment with this in it. Raises Unavailable."""
    directory = CACHE / distribution
    _run(sys.executable, "-m", "venv", str(directory))
    _run(str(directory / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", distribution)


def install_from_npm(package: str) -> None:
    """Makes a directory with this in its node_modules. Raises Unavailable."""
    directory = CACHE / package
    directory.mkdir(parents=True, exist_ok=True)
    _run("npm", "install", "--prefix", str(directory), "--no-audit", "--no-fund", "--silent", package)


def install_from_debian(package: str) -> None:
    """Installs it for the whole machine, which takes root. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable(f"only root can install it: apt-get install {package}")
    _run("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", package)


def program_of(distribution: str, program: str) -> Path:
    """A program of a virtual environment. Raises Unavailable when it was not installed."""
    path = CACHE / distribution / "bin" / program
    if not path.exists():
        raise Unavailable("not installed: python -m benchmarks.peers install")
    return path


def pypi_version(distribution: str) -> str:
    """What is installed. Raises Unavailable."""
    asks = f"from importlib.metadata import version; print(version({distribution!r}))"
    return _run(str(program_of(distribution, "python")), "-c", asks).strip()


def npm_version(package: str) -> str:
    """What is installed. Raises Unavailable."""
    manifest = CACHE / package / "node_modules" / package / "package.json"
    if not manifest.exists():
        raise Unavailable("not installed: python -m benchmarks.peers install")
    return str(json.loads(manifest.read_text())["version"])


def debian_version(package: str) -> str:
    """What is installed. Raises Unavailable."""
    return _run("dpkg-query", "--show", "--showformat=${Version}", package)


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise Unavailable(f"there is no {command[0]} on this machine")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{' '.join(command[:3])}… has failed: {said[-1] if said else done.returncode}")
    return done.stdout
