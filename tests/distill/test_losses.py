import pytest
import torch

from streamer.distill.losses import (
    clean_regression_loss,
    direction_loss,
    distribution_direction,
    flow_matching_loss,
    guided_flow,
)


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


def gaussian_clean(noisy: torch.Tensor, sigma: float, mean: float, std: float) -> torch.Tensor:
    """The mean of the clean values behind noisy ones, for values of one normal distribution."""
    variance = ((1 - sigma) * std) ** 2 + sigma**2
    return mean + (1 - sigma) * std**2 / variance * (noisy - (1 - sigma) * mean)


def test_the_direction_between_two_gaussians_is_the_gradient_of_their_divergence():
    """Made N(a, b^2), real N(m, s^2), both blurred by noise: KL is known, and so its gradient."""
    a, b, m, s, sigma = 0.7, 0.6, -0.4, 1.1, 0.5
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, 1, 400_000, 1, 1, 1, generator=generator, dtype=torch.float64)
    made = (a + b * draws[0]).requires_grad_()
    noisy = (1 - sigma) * made.detach() + sigma * draws[1]
    real, fake = gaussian_clean(noisy, sigma, m, s), gaussian_clean(noisy, sigma, a, b)
    weight = torch.ones(1, 400_000, dtype=torch.float64)
    direction = distribution_direction(made, real, fake, weight)
    scale = (made.detach() - real).abs().mean()
    # fake - real = sigma^2 / (1 - sigma) * (score of made - score of real): Tweedie.
    direction_loss(made, direction, weight).backward()
    assert made.grad is not None
    per_value = made.grad * 400_000 * scale * (1 - sigma) / sigma**2
    spread = ((1 - sigma) * b) ** 2 + sigma**2
    real_spread = ((1 - sigma) * s) ** 2 + sigma**2
    # KL = log(V_s / V_b) / 2 + (V_b + (1 - sigma)^2 (a - m)^2) / (2 V_s) - 1/2, by the chain rule.
    by_mean = (1 - sigma) ** 2 * (a - m) / real_spread
    by_width = (1 - sigma) ** 2 * b * (1 / real_spread - 1 / spread)
    found_mean = (per_value * (1 - sigma)).mean().item()
    found_width = (per_value * (1 - sigma) * draws[0]).mean().item()
    # The mean of 400,000 draws.
    assert found_mean == pytest.approx(by_mean, rel=0.01)
    assert found_width == pytest.approx(by_width, rel=0.03)


def test_following_the_direction_ends_at_the_real_distribution():
    generator = torch.Generator().manual_seed(0)
    mean, width = torch.tensor(2.0, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    optimizer = torch.optim.Adam([mean, width], lr=0.03)
    weight = torch.ones(1, 2048)
    for _ in range(400):
        sigma = 0.05 + 0.9 * torch.rand((), generator=generator).item()
        draws = torch.randn(2, 1, 2048, 1, 1, 1, generator=generator)
        made = mean + width * draws[0]
        noisy = ((1 - sigma) * made + sigma * draws[1]).detach()
        real = gaussian_clean(noisy, sigma, -1.0, 0.8)
        fake = gaussian_clean(noisy, sigma, mean.item(), width.item())
        optimizer.zero_grad()
        direction_loss(made, distribution_direction(made, real, fake, weight), weight).backward()
        optimizer.step()
    assert mean.item() == pytest.approx(-1.0, abs=0.1)
    assert width.item() == pytest.approx(0.8, abs=0.1)


def test_each_clip_has_its_own_scale_and_frames_without_weight_have_no_direction():
    made = torch.zeros(2, 2, 1, 1, 1)
    real = torch.tensor([[1.0, 9.0], [10.0, 9.0]])[..., None, None, None]
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    direction = distribution_direction(made, real, made, weight)
    assert direction.flatten().tolist() == [-1, 0, -1, 0]
    made.requires_grad_()
    direction_loss(made, direction, weight).backward()
    torch.testing.assert_close(made.grad, direction / 2)


def test_regression_counts_the_weighted_frames_only():
    clean = torch.zeros(1, 2, 1, 2, 2)
    made = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1).expand_as(clean)
    assert clean_regression_loss(made, clean, torch.tensor([[0.0, 1.0]])) == pytest.approx(9.0)
    with pytest.raises(ValueError, match="nothing to learn"):
        clean_regression_loss(made, clean, torch.zeros(1, 2))
