import pytest
import torch

from streamer.distill.losses import flow_matching_loss, guided_flow


def test_the_target_itself_costs_nothing_and_unweighted_frames_do_not_count():
    target = torch.randn(2, 3, 4, 2, 2)
    flow = target.clone()
    assert flow_matching_loss(flow, target, torch.ones(2, 3)) == 0
    flow[:, 0] += 2
    weight = torch.tensor([0.0, 1.0, 1.0]).expand(2, 3)
    assert flow_matching_loss(flow, target, weight) == 0
    assert flow_matching_loss(flow, target, 1 - weight) == pytest.approx(4.0)


def test_no_weight_at_all_is_refused():
    zeros = torch.zeros(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="nothing to learn"):
        flow_matching_loss(zeros, zeros, torch.zeros(1, 1))


def test_guidance_goes_through_both_flows_and_beyond():
    told, untold = torch.tensor(3.0), torch.tensor(1.0)
    assert [guided_flow(told, untold, scale).item() for scale in (0.0, 1.0, 2.5)] == [1, 3, 6]
