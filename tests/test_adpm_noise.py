"Label diffusion is the diffusion of diffusers, applied to the labels minus their prior"
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from logex_nb.adpm.noise import READINGS, LabelScheduler

LEVEL = torch.ones(64, dtype=torch.float64)
THEIRS = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=.02, clip_sample=False, timestep_spacing="trailing")


@pytest.fixture
def draws() -> list[torch.Tensor]: # Labels, prior, two noises `[64, 7]`
    g = torch.Generator().manual_seed(0)
    labels = torch.eye(7)[torch.randint(7, (64,), generator=g)]
    return [x.double() for x in (labels, torch.randn(64, 7, generator=g).softmax(-1), *torch.randn(2, 64, 7, generator=g))]


def exact(scheduler): # diffusers rounds its schedule to single precision
    scheduler.alphas_cumprod = LabelScheduler().alphas_cumprod.clone()
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


def close(a, b, eps=1e-9): torch.testing.assert_close(a, b, rtol=eps, atol=eps)


def test_schedule():
    ours, theirs = LabelScheduler(), DDPMScheduler(**THEIRS)
    for name in ("betas", "alphas", "alphas_cumprod"):
        close(getattr(ours, name).float(), getattr(theirs, name), 2e-6)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    other = LabelScheduler(100, 1e-3, .1)
    close(other.betas.float(), DDPMScheduler(100, 1e-3, .1).betas, 1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_add_noise(draws, reading):
    labels, prior, noise, _ = draws
    t = torch.arange(64) * 999 // 63
    theirs = exact(DDPMScheduler(**THEIRS)).add_noise(labels - prior, noise, t)
    close(LabelScheduler(reading=reading).add_noise(labels, noise, t, prior, LEVEL) - prior, theirs)


@pytest.mark.parametrize("n", [1, 7, 10, 250, 1000])
def test_strided_timesteps_are_trailing(n):
    ours, theirs = LabelScheduler(), DDIMScheduler(**THEIRS)
    ours.set_timesteps(n, "strided"), theirs.set_timesteps(n)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("eta", [0, .4, 1])
def test_step_is_ddim(draws, eta, reading, kind):
    "Of a strided chain, with the predictions of an arbitrary network"
    output, prior, y, noise = draws
    ours = LabelScheduler(reading=reading, prediction_type=kind)
    theirs = exact(DDIMScheduler(**THEIRS, prediction_type=kind))
    ours.set_timesteps(10, "strided"), theirs.set_timesteps(10)
    shift = prior if kind == "sample" else 0  # the network of diffusers predicts labels minus prior
    for t in ours.timesteps:
        found = theirs.step(output - shift, t, y - prior, eta=eta, variance_noise=noise if eta else None)
        after, labels = ours.step(output, t, y, prior, LEVEL, noise, eta=eta, clip=None)
        close(after - prior, found.prev_sample, 1e-7)
        close(labels - prior, found.pred_original_sample, 1e-7)


@pytest.mark.parametrize("n, spacing", [(1000, "strided"), (250, "truncated")])
def test_eta_one_is_ddpm(draws, n, spacing):
    "Single steps, as the paper takes them, against the posterior of DDPM, whose noise comes from a generator"
    output, prior, y, _ = draws
    ours, theirs = LabelScheduler(), exact(DDPMScheduler(**THEIRS, variance_type="fixed_small"))
    ours.set_timesteps(n, spacing)
    for t in ours.timesteps[[0, 1, n // 2, -2, -1]]:
        noise = torch.randn(64, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = theirs.step(output, int(t), y - prior, generator=torch.Generator().manual_seed(1))
        after, labels = ours.step(output, t, y, prior, LEVEL, noise, clip=None)
        close(after - prior, found.prev_sample, 1e-7)
        close(labels - prior, found.pred_original_sample, 1e-7)


@pytest.mark.parametrize("power", [.5, 1])
def test_a_level_scales_the_whole_chain(draws, power):
    "Under the readings noise and unit, y minus prior of a class is a DDPM in units of its own scale"
    labels, prior, noise, z = draws
    level = torch.linspace(1, 6, 64, dtype=torch.float64)
    s = (level ** power)[:, None]
    for reading in ("noise", "unit"):
        ours, theirs = LabelScheduler(reading=reading, power=power), exact(DDIMScheduler(**THEIRS))
        ours.set_timesteps(10, "strided"), theirs.set_timesteps(10)
        output = ours.target(labels, noise, level)
        y = ours.start(prior, level, z)
        close((y - prior) / s, z)
        for t in ours.timesteps:
            found = theirs.step(noise, t, (y - prior) / s, eta=1, variance_noise=z)
            y, predicted = ours.step(output, t, y, prior, level, z, clip=None)
            close((y - prior) / s, found.prev_sample, 1e-6)
            close((predicted - prior) / s, found.pred_original_sample, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_labels(draws, dtype):
    labels, prior, noise, z = (x.to(dtype) for x in draws)
    for reading in READINGS:
        ours = LabelScheduler(reading=reading)
        y = ours.add_noise(labels, noise, torch.full((64,), 500), prior, LEVEL * 3)
        after, predicted = ours.step(ours.target(labels, noise, LEVEL * 3), 500, y, prior, LEVEL * 3, z)
        assert {x.dtype for x in (y, after, predicted, ours.start(prior, LEVEL, z))} == {dtype}


def test_many_levels_of_a_fast_schedule_stay_finite(draws):
    "At level 60 nothing of the label is left long before the end, in any precision"
    labels, prior, noise, z = (x.float() for x in draws)
    ours, level = LabelScheduler(reading="schedule"), torch.linspace(1, 60, 64)
    y = ours.start(prior, level, z)
    for t in ours.timesteps:
        y, predicted = ours.step(noise, t, y, prior, level, z)
        assert y.isfinite().all() and predicted.abs().max() <= 1.5


def test_several_samples_of_a_row(draws):
    "K samples are further rows, whose levels are given once per row and sample"
    labels, prior, noise, z = (x.view(16, 4, 7) for x in draws)
    level = torch.linspace(1, 6, 16, dtype=torch.float64)[:, None].expand(16, 4)
    ours = LabelScheduler()
    together = ours.step(noise, 500, z, prior, level, z)[0]
    close(together[3], ours.step(noise[3], 500, z[3], prior[3], level[3], z[3])[0])
