"""The `simu` console command: `simu run …` is `python -m simu.run …`, and so are report, cache and doctor."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "run": ("simu.run", "compose a config and run it; simu run --help lists slots and options"),
    "report": ("simu.report.__main__", "tables, figures and a page over finished runs"),
    "cache": ("simu.cache", "look after the stage cache"),
    "doctor": ("simu.doctor", "what this machine has, and what each missing extra would give"),
}
"""Word → module with a `main()`, and a line of help."""


def main() -> None:
    """Console entry point. Exit status 2 for a word that is no command."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help"):
        print("usage: simu COMMAND …\n")
        print("\n".join(f"  {name:8}{about}" for name, (_, about) in COMMANDS.items()))
    elif word not in COMMANDS:
        print(f"simu: no command {word!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"simu {word}", *sys.argv[2:]]
        sys.exit(import_module(COMMANDS[word][0]).main())
