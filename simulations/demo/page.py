"""Puts the chapters together into one report."""

from typing import Any

from simulations.demo.placement.chapter import PlacementChapter, model_names
from simulations.demo.report import placement_data, placement_method, placement_page
from simulations.demo.services.report import StoryChapter, story_data, story_kpis, story_page


def page_of(
    placement: PlacementChapter, story: StoryChapter, facts: str, footer: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the templates name, and what the script draws."""
    ours, theirs = story.accounts[:2]
    models = sorted({*model_names(placement.stream), *(service.model for service in story.sides[0].services)})
    saved = 1 - ours.card_hours / theirs.card_hours
    page: dict[str, Any] = {
        "title": "The same models on fewer GPUs",
        "lead": (
            f"Headroom served {story.sides[0].requests:,} requests to {len(story.sides[0].services)} services with"
            f" {abs(saved):.0%}".replace("%", " %")
            + f" {'fewer' if saved >= 0 else 'more'} GPU card hours than whole-card Kubernetes with an HPA, and placed"
            f" {placement.headroom.running} replicas on a fleet where whole cards hold {placement.whole.running}."
        ),
        "facts": facts,
        "kpis": story_kpis(story),
        "story": story_page(story),
        "placement": placement_page(placement),
        "method": [*story.method, *placement_method(placement)],
        "footer": footer,
    }
    data = {"models": models, "story": story_data(story, models), "placement": placement_data(placement, models)}
    return page, data
