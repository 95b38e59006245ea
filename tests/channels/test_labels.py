"""Label tensors and the union-find over scales."""

from __future__ import annotations

import torch

from awqc.channels.labels import PINNED, ScaleClasses, compress, fit, merge_axes, strongest
from awqc.graph.sites import scale_factor

A, B, C = PINNED + 1, PINNED + 2, PINNED + 3


def test_merging_ties_scales_through_each_other() -> None:
    classes = ScaleClasses(3)
    assert classes.merge(torch.tensor([A, B]), torch.tensor([B, C]))
    assert classes.canonical(torch.tensor([A, B, -C, 0])).tolist() == [A, A, -A, 0]
    assert not classes.merge(torch.tensor([A]), torch.tensor([C]))


def test_long_chain_of_ties() -> None:
    classes = ScaleClasses(500)
    chain = torch.arange(500) + A
    assert classes.merge(chain[:-1].flip(0), chain[1:].flip(0))
    assert classes.canonical(chain).unique().tolist() == [A]


def test_free_elements_tie_nothing() -> None:
    classes = ScaleClasses(2)
    assert not classes.merge(torch.tensor([0, A]), torch.tensor([B, 0]))


def test_scale_that_equals_an_inverse_is_pinned() -> None:
    classes = ScaleClasses(2)
    classes.merge(torch.tensor([A]), torch.tensor([-B]))
    assert classes.active(torch.tensor([A, B])).tolist() == [0, 0]


def test_pinned_scale_pins_what_it_meets_whatever_the_sign() -> None:
    classes = ScaleClasses(3)
    assert classes.pin(torch.tensor([A])) == 1
    assert classes.pin(torch.tensor([A, 0])) == 0
    classes.merge(torch.tensor([A, A]), torch.tensor([-B, C]))
    assert classes.active(torch.tensor([A, B, C])).tolist() == [0, 0, 0]


def test_copies_are_independent() -> None:
    classes = ScaleClasses(2)
    other = classes.copy()
    other.merge(torch.tensor([A]), torch.tensor([B]))
    assert classes.active(torch.tensor([B])).tolist() == [B]
    assert not classes.equal(other)


def test_compress_drops_axes_along_which_labels_agree() -> None:
    labels = torch.tensor([A, B]).reshape(1, 2, 1).expand(3, 2, 4)
    assert compress(labels).shape == (1, 2, 1)
    assert strongest(torch.tensor([[0, A], [0, 0]]), 1).tolist() == [[A], [0]]


def test_fit_merges_what_a_broadcast_value_would_need_twice() -> None:
    classes = ScaleClasses(2)
    fitted = fit(classes, torch.tensor([[A, 0], [B, 0]]), (2,))
    assert fitted.tolist() == [A, 0] or fitted.tolist() == [B, 0]
    assert classes.canonical(torch.tensor([B])).tolist() == [A]
    assert fit(classes, torch.tensor([A, 0]), (3, 1, 2)).shape == (1, 1, 2)


def test_merge_axes_keeps_rank() -> None:
    classes = ScaleClasses(2)
    assert merge_axes(classes, torch.tensor([[A, B]]), [1]).shape == (1, 1)


def test_scale_factor_of_signed_indices() -> None:
    factor = scale_factor(torch.tensor([1, -2, 0]), torch.tensor([2.0, 4.0]))
    assert factor.tolist() == [2.0, 0.25, 1.0]
