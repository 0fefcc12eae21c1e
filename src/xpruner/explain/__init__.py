"""Explanations of a finished run: cards of units, classes and images, the class audit, and how far to trust them.

Functions and cards load on first use. The modules of cards have their names in the plural: a module that is loaded
would take the place of a function of its own name here.
"""

from typing import TYPE_CHECKING

from xpruner._lazy import lazily

_HOMES = {
    "Audit": "explain.audit",
    "audit_run": "explain.audit",
    "ClassCard": "explain.class_cards",
    "class_card": "explain.class_cards",
    "find_class": "explain.classes",
    "find_classes": "explain.classes",
    "ImageCard": "explain.image_cards",
    "image_card": "explain.image_cards",
    "MapsCard": "explain.map_cards",
    "maps_card": "explain.map_cards",
    "read_boxes": "explain.boxes",
    "SelectivityCard": "explain.selectivity",
    "selectivity_card": "explain.selectivity",
    "UnitCard": "explain.unit_cards",
    "find_unit": "explain.unit_cards",
    "unit_card": "explain.unit_cards",
    "saliency": "maps",
}

__all__ = [
    "Audit",
    "ClassCard",
    "ImageCard",
    "MapsCard",
    "SelectivityCard",
    "UnitCard",
    "audit_run",
    "class_card",
    "find_class",
    "find_classes",
    "find_unit",
    "image_card",
    "maps_card",
    "read_boxes",
    "saliency",
    "selectivity_card",
    "unit_card",
]

if TYPE_CHECKING:
    from xpruner.explain.audit import Audit, audit_run
    from xpruner.explain.boxes import read_boxes
    from xpruner.explain.class_cards import ClassCard, class_card
    from xpruner.explain.classes import find_class, find_classes
    from xpruner.explain.image_cards import ImageCard, image_card
    from xpruner.explain.map_cards import MapsCard, maps_card
    from xpruner.explain.selectivity import SelectivityCard, selectivity_card
    from xpruner.explain.unit_cards import UnitCard, find_unit, unit_card
    from xpruner.maps import saliency

__getattr__, __dir__ = lazily(__name__, _HOMES)
