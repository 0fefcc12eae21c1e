from tiny_models import units_of

from xpruner.compensation.consumers import channels
from xpruner.plan.plan import Plan


def test_channels_of_what_is_kept_and_removed():
    heads, hidden = units_of("swin").groups[:2]
    kept, removed = channels([heads], Plan({heads.key: [1]}, {}), 12)
    assert (kept.tolist(), removed.tolist()) == ([6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5])
    kept, removed = channels([hidden], Plan({hidden.key: [0, 3]}, {}), 48)
    assert (kept.tolist(), removed.tolist()) == ([0, 3], [i for i in range(48) if i not in (0, 3)])
