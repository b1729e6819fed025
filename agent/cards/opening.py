"""Which reader reads the cards: NVML, or a script for tests and clusters without cards."""

from pathlib import Path

from agent.cards.reader import Reader


def open_reader(script: str) -> Reader:
    """The reader of `script` (a path), or of NVML where it is empty. Raises ScriptError."""
    if script:
        from agent.cards.scripted import ScriptedReader

        return ScriptedReader.from_file(Path(script))
    from agent.cards.nvml import NvmlReader

    return NvmlReader()
