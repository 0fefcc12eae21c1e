from hand_made import KEY, hand_made, unlabelled

from xpruner.methods.wanda import wanda

ACTIVATIONS = unlabelled([1.0, 2.0], [7.0, 2.0])
"""Norms 5 and 2."""


def test_weights_count_without_sign_times_the_norm_of_what_they_read():
    assert wanda(hand_made(ACTIVATIONS, [[1.0, -2.0], [3.0, 4.0]]))[KEY].tolist() == [(1 + 3) * 5, (2 + 4) * 2]


def test_the_channels_of_a_unit_are_summed():
    assert wanda(hand_made(ACTIVATIONS, [[1.0, -2.0], [3.0, 4.0]], width=2))[KEY].tolist() == [32]
