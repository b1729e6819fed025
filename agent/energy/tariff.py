"""What card time and energy cost, in money and carbon: prices, budgets, PUE and grid intensity, with their sources.

Pure but for `load_tariff`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from headroom.errors import HeadroomError, why

WORLD_PUE: Final = 1.56
WORLD_PUE_SOURCE: Final = "Uptime Institute 2024, world mean"
WORLD_GRAMS: Final = 475.0
WORLD_GRAMS_YEAR: Final = 2019
WORLD_GRAMS_SOURCE: Final = "IEA, world mean, location-based"


class TariffError(HeadroomError):
    """A tariff that is not what it should be; names the file, the field and the value."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """Factors of the account. Every default is a stated world mean, never a silent 1 or 0."""

    currency: str = ""
    card_hour_prices: Mapping[str, float] = field(default_factory=dict)
    """Price of a card hour by card model; `*` for all others. Without any, cost is not reported."""
    budgets: Mapping[str, float] = field(default_factory=dict)
    """Money a project may spend in 30 days."""
    idle_watts: Mapping[str, float] = field(default_factory=dict)
    """Power of a card model with nothing on it, where it is known better than by observation."""
    pue: float = WORLD_PUE
    """Energy of the data centre over that of its machines."""
    pue_source: str = WORLD_PUE_SOURCE
    grams_per_kwh: float = WORLD_GRAMS
    """CO2 equivalent of the grid."""
    grams_year: int = WORLD_GRAMS_YEAR
    grams_source: str = WORLD_GRAMS_SOURCE

    def price_of(self, model: str) -> float | None:
        """Price of an hour of a card of this model, None where none is stated."""
        return self.card_hour_prices.get(model, self.card_hour_prices.get("*"))

    def kilograms_co2e(self, kwh: float) -> float:
        """kg of CO2 equivalent for energy measured at the cards: kWh x PUE x g/kWh / 1000."""
        return kwh * self.pue * self.grams_per_kwh / 1000


def parse_tariff(plain: Any, *, name: str = "tariff") -> Tariff:
    """A tariff from plain values. Raises TariffError."""
    if plain is None:
        return Tariff()
    if not isinstance(plain, dict):
        raise TariffError(f"{name}: must hold keys and values, not {type(plain).__name__}")
    if unknown := sorted(plain.keys() - {entry.name for entry in fields(Tariff)}):
        raise TariffError(f"{name}: unknown key {unknown[0]!r}")
    try:
        tariff = msgspec.convert(plain, Tariff)
    except msgspec.ValidationError as error:
        raise TariffError(f"{name}: {error}") from error
    for key in ("card_hour_prices", "budgets", "idle_watts"):
        for entry, value in getattr(tariff, key).items():
            if not 0 <= value < float("inf"):
                raise TariffError(f"{name}: {key}: {entry}: {value} is not an amount of 0 or more")
    if not 1 <= tariff.pue <= 10:
        raise TariffError(f"{name}: pue: {tariff.pue} is not between 1 and 10")
    if not 0 <= tariff.grams_per_kwh <= 2000:
        raise TariffError(f"{name}: grams_per_kwh: {tariff.grams_per_kwh} is not between 0 and 2000")
    for key, value, default, source in (
        ("pue", tariff.pue, WORLD_PUE, "pue_source"),
        ("grams_per_kwh", tariff.grams_per_kwh, WORLD_GRAMS, "grams_source"),
    ):
        if value != default and source not in plain:
            raise TariffError(f"{name}: {key}: {value} needs a {source}")
    return tariff


def load_tariff(file: str | Path | None) -> Tariff:
    """The tariff in a YAML file; the defaults without one. Raises TariffError."""
    if not file:
        return Tariff()
    try:
        plain = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TariffError(f"{file}: cannot be read: {why(error)}") from error
    except yaml.YAMLError as error:
        raise TariffError(f"{file}: is not YAML: {error}") from error
    return parse_tariff(plain, name=str(file))
