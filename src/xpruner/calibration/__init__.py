"""What is measured on calibration images: moments of activations, sensitivity of the logits; and rotated heads."""

from xpruner.calibration.moments import consumer_moments

__all__ = ["consumer_moments"]
