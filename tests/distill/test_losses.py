import pytest
import torch

from streamer.distill.losses import flow_matching_loss


def test_the_true_flow_costs_nothing_and_unweighted_frames_do_not_count():
    clean, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    flow = noise - clean
    assert flow_matching_loss(flow, clean, noise, torch.ones(2, 3)) == 0
    flow[:, 0] += 2
    weight = torch.tensor([0.0, 1.0, 1.0]).expand(2, 3)
    assert flow_matching_loss(flow, clean, noise, weight) == 0
    assert flow_matching_loss(flow, clean, noise, 1 - weight) == pytest.approx(4.0)


def test_no_weight_at_all_is_refused():
    zeros = torch.zeros(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="nothing to learn"):
        flow_matching_loss(zeros, zeros, zeros, torch.zeros(1, 1))
