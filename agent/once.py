"""`headroom agent --once`: the cards read once, for people or as JSON."""

from dataclasses import replace
from pathlib import Path

from agent.cards.opening import open_reader
from agent.cards.reader import CardReading, Missing, Reading
from agent.pods.processes import ProcessTable
from agent.settings import AgentSettings
from headroom.units import MIB, format_mib


def read_once(settings: AgentSettings) -> Reading:
    """One reading of the cards, with the pod and container of each process filled in. Raises ScriptError."""
    reader = open_reader(settings.script)
    try:
        return _with_owners(reader.read(0.0), ProcessTable(Path(settings.proc)))
    finally:
        reader.close()


def _with_owners(reading: Reading, processes: ProcessTable) -> Reading:
    """The reading with the pod and container of each process filled in."""
    cards = []
    for card in reading.cards:
        if isinstance(card.processes, Missing):
            cards.append(card)
            continue
        owners = processes.owners(process.pid for process in card.processes)
        named = tuple(
            replace(process, pod_uid=owner.pod_uid, container_id=owner.container_id)
            if (owner := owners.get(process.pid)) is not None
            else process
            for process in card.processes
        )
        cards.append(replace(card, processes=named))
    return replace(reading, cards=tuple(cards))


def describe(reading: Reading) -> str:
    """A reading for people: a line per card, what could not be read, and the processes."""
    lines = [f"driver {reading.driver or 'unknown'}, {len(reading.cards)} cards, {len(reading.broken)} not readable"]
    for card in reading.cards:
        lines.append(
            f"{card.index}  {card.id}  {card.model}  used {_mib(card.memory_used_bytes)} of {_mib(card.memory_total_bytes)}"
            f"  busy {_show(card.utilization_ratio)}  {_show(card.power_watts)} W  {_show(card.temperature_celsius)} C"
        )
        lines += [f"     {name}: {why.value}" for name, why in _missing(card)]
        for process in () if isinstance(card.processes, Missing) else card.processes:
            owner = f"pod {process.pod_uid}" if process.pod_uid else "no pod"
            lines.append(f"     process {process.pid}  {_mib(process.memory_used_bytes)}  {owner}")
    if reading.links is not None:
        paths = zip(reading.links.cards, reading.links.paths, strict=False)
        lines += [f"     links of {card} to the cards after it: {' '.join(row)}" for card, row in paths]
    if reading.links_problem:
        lines.append(f"     links: {reading.links_problem}")
    lines += [f"{card.index}  {card.id or 'unknown card'}  {card.reason}" for card in reading.broken]
    return "\n".join(lines)


def _missing(card: CardReading) -> list[tuple[str, Missing]]:
    return [(name, value) for name in CardReading.__slots__ if isinstance(value := getattr(card, name), Missing)]


def _mib(value: int | Missing) -> str:
    return value.value if isinstance(value, Missing) else format_mib(value // MIB)


def _show(value: float | Missing) -> str:
    return value.value if isinstance(value, Missing) else f"{value:g}"
