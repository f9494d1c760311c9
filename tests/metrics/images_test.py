"""Image metrics against closed forms, scikit-image and PyTorch."""

import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics as skimage

from labelleak import data
from labelleak.base import InputError
from labelleak.metrics import images, perceptual, wavelets

_similarity = jax.jit(images.similarity)
_lpips = jax.jit(perceptual.lpips)
_cw_ssim = jax.jit(wavelets.cw_ssim)


def _pair(seed=0, shape=(3, 32, 32, 3), noise=0.2):
  rng = np.random.default_rng(seed)
  a = rng.uniform(size=shape)
  b = np.clip(a + noise * rng.normal(size=shape), 0, 1)
  return np.float32(a), np.float32(b)


class PixelMetricsTest(parameterized.TestCase):
  @parameterized.parameters(((3, 32, 40, 3),), ((2, 8, 10, 1),))
  def test_against_scikit_image(self, shape):
    a, b = _pair(shape=shape)
    found, restored = _similarity(jnp.array(b), jnp.array(a))
    np.testing.assert_array_equal(restored, b)
    window = min(11, *shape[1:3])
    window -= 1 - window % 2
    expected = dict(
      mse=[skimage.mean_squared_error(x, y) for x, y in zip(a, b)],
      psnr=[
        skimage.peak_signal_noise_ratio(x, y, data_range=1)
        for x, y in zip(a, b)
      ],
      ssim=[self._ssim(x, y, window) for x, y in zip(a, b)],
    )
    for name, values in expected.items():
      np.testing.assert_allclose(found[name], np.mean(values), rtol=1e-4)

  def _ssim(self, a, b, window):
    """Of windows inside the image; scikit-image's own is of 11 pixels."""
    if window == 11:
      _, each = skimage.structural_similarity(
        a, b, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
      )  # fmt: skip
      return each[5:-5, 5:-5].mean()
    at = np.arange(window) - window // 2
    kernel = np.exp(-(at**2) / (2 * 1.5**2))
    weights = np.outer(kernel, kernel) / kernel.sum() ** 2
    windows = np.lib.stride_tricks.sliding_window_view
    a, b = (windows(x, (window, window), (0, 1)) for x in (a, b))
    mean = lambda x: (x * weights).sum((-2, -1))
    both = mean(a * b) - mean(a) * mean(b)
    power = [mean(x**2) - mean(x) ** 2 for x in (a, b)]
    top = (2 * mean(a) * mean(b) + 1e-4) * (2 * both + 9e-4)
    bottom = (mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (sum(power) + 9e-4)
    return (top / bottom).mean()

  @parameterized.parameters((0.2, 0.6), (0.0, 1.0), (0.5, 0.5))
  def test_of_constant_images(self, low, high):
    a, b = (jnp.full((2, 16, 16, 3), v) for v in (low, high))
    k = 1e-4
    expected = (2 * low * high + k) / (low**2 + high**2 + k)
    np.testing.assert_allclose(images.ssim(a, b), [expected] * 2, rtol=3e-4)
    found, _ = _similarity(a, b)
    np.testing.assert_allclose(found['mse'], (high - low) ** 2, rtol=1e-5)

  def test_pixels_invert_a_sources_normalisation(self):
    for name in ('digits', 'synthetic'):
      for options in ({}, dict(normalise=False)):
        if name == 'synthetic' and options:
          continue
        source = data.load(name, **options)
        black, white = (
          np.broadcast_to(b, source.shape) for b in source.pixel_range
        )
        half = (black + white) / 2
        ends = np.stack([black, white, half, 3 * white - black])
        x = images.pixels(jnp.array(ends), source.pixel_range)
        for row, value in zip(x, (0, 1, 0.5, 1)):
          np.testing.assert_allclose(row, np.full(row.shape, value), atol=1e-6)
    raw = data.load('digits', normalise=False)
    scaled = data.load('digits')
    np.testing.assert_allclose(
      images.pixels(jnp.array(scaled.take(np.arange(5))), scaled.pixel_range),
      raw.take(np.arange(5)),
      atol=1e-6,
    )


class MatchTest(parameterized.TestCase):
  @parameterized.parameters(*range(4))
  def test_is_the_best_of_all_permutations(self, seed):
    cost = np.random.default_rng(seed).uniform(size=(5, 5))
    found = np.asarray(jax.jit(images.match)(jnp.array(cost)))
    every = itertools.permutations(range(5))
    best = min(sum(cost[i, j] for i, j in enumerate(p)) for p in every)
    np.testing.assert_allclose(cost[np.arange(5), found].sum(), best)

  def test_the_order_of_a_reconstruction_does_not_matter(self):
    a, b = _pair(shape=(5, 16, 16, 3))
    shuffled = b[np.array([3, 0, 4, 1, 2])]
    one, first = _similarity(jnp.array(b), jnp.array(a))
    two, second = _similarity(jnp.array(shuffled), jnp.array(a))
    np.testing.assert_array_equal(first, second)
    self.assertEqual(one, two)
    np.testing.assert_array_equal(first, b)

  def test_what_is_not_finite_is_matched_last(self):
    cost = jnp.array([[jnp.nan, 1.0], [2.0, jnp.inf]])
    np.testing.assert_array_equal(images.match(cost), [1, 0])
    np.testing.assert_array_equal(
      np.sort(images.match(jnp.full((3, 3), jnp.nan))), np.arange(3)
    )

  def test_a_batch_of_trials(self):
    cost = jnp.array(np.random.default_rng(0).uniform(size=(4, 3, 3)))
    np.testing.assert_array_equal(
      jax.vmap(images.match)(cost), [images.match(each) for each in cost]
    )


class WaveletsTest(parameterized.TestCase):
  def test_of_equal_images_is_one(self):
    a, _ = _pair()
    np.testing.assert_allclose(_cw_ssim(a, a), np.ones(3), rtol=1e-5)

  def test_blank_images_are_alike_and_unlike_all_others(self):
    a, _ = _pair()
    blank = np.zeros_like(a)
    np.testing.assert_allclose(_cw_ssim(blank, blank), np.ones(3), rtol=1e-5)
    np.testing.assert_allclose(_cw_ssim(a, blank), np.zeros(3), atol=0.05)

  @parameterized.parameters(0.5, 0.25, 2.0)
  def test_of_a_faded_image(self, factor):
    """|x|^2 and factor |x|^2: 2 f / (1 + f^2) at every point."""
    a, _ = _pair()
    a = 100 * a  # the constant of the formula fades out
    expected = 2 * factor / (1 + factor**2)
    found = _cw_ssim(a, factor * a)
    np.testing.assert_allclose(found, np.full(3, expected), rtol=1e-4)

  def test_filters_are_those_of_a_wavelet(self):
    """Perfect reconstruction demands these sums of the published numbers."""
    low = np.array(wavelets._SHIFT)
    for shift in range(0, len(low), 2):
      product = low[shift:] @ low[: len(low) - shift]
      np.testing.assert_allclose(product, float(shift == 0), atol=1e-7)
    np.testing.assert_allclose(low.sum(), 2**0.5, atol=1e-7)
    first, high = (np.array(h + h[-2::-1]) for h in wavelets._FIRST)
    self.assertEqual((len(first), len(high)), (13, 19))
    np.testing.assert_allclose((first.sum(), high.sum()), (1, 0), atol=1e-12)

  @parameterized.parameters((32, 32), (8, 8), (24, 40), (31, 30))
  def test_a_constant_has_no_detail(self, height, width):
    bands = list(wavelets.transform(jnp.ones((1, height, width, 2))))
    self.assertLen(bands, 5)
    self.assertEqual(bands[0].shape, (6, 1, -(-height // 2), -(-width // 2), 2))
    for band in bands:
      np.testing.assert_allclose(np.abs(band), np.zeros(band.shape), atol=1e-4)

  def test_magnitude_follows_a_waves_direction_and_not_its_phase(self):
    """What complex wavelets are for: one band answers, whatever the phase."""
    phases = np.linspace(0, 2 * np.pi, 8, endpoint=False)[:, None, None]
    y, x = np.mgrid[:64, :64]
    waves = []
    for degrees in (15, 45, 75, 105, 135, 165):
      angle = np.radians(degrees)
      # The second level passes 1/8 to 1/4 a pixel along an axis it is high in.
      period = 3.8 if degrees % 90 == 45 else 5.5
      along = 2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle))
      waves.append(np.cos(along[None] + phases))
    waves = np.float32(waves).reshape(-1, 64, 64, 1)
    _, band = jax.jit(lambda x: list(wavelets.transform(x, 2)))(waves)
    inner = np.asarray(band)[:, :, 4:-4, 4:-4, 0].reshape(6, 6, -1)
    power = (np.abs(inner) ** 2).mean(-1)  # [band, direction]
    best = power.argmax(0)
    self.assertLen(set(best), 6)
    for direction, own in enumerate(best):
      second = np.sort(power[:, direction])[-2]
      self.assertGreater(power[own, direction], 3 * second)
      found = inner[own, direction]
      self.assertLess(np.abs(found).std(), 0.15 * np.abs(found).mean())
      self.assertGreater(found.real.std(), 0.5 * np.abs(found).mean())

  def test_unrelated_images_are_unlike(self):
    rng = np.random.default_rng(0)
    a, b = np.float32(rng.normal(size=(2, 16, 32, 32, 3)))
    self.assertLess(_cw_ssim(a, b).mean(), 0.5)


class LpipsTest(parameterized.TestCase):
  def _saved(self, seed=0):
    """Random weights under the names of the released file; the file."""
    rng = np.random.default_rng(seed)
    state, channels = {}, 3
    for i, (name, out, kernel, *_) in enumerate(perceptual._LAYERS):
      prefix = 'net.' + name.replace('_', '.')
      shape = out, channels, kernel, kernel
      scale = (2 / np.prod(shape[1:])) ** 0.5
      state[f'{prefix}.weight'] = scale * rng.normal(size=shape)
      state[f'{prefix}.bias'] = 0.1 * rng.normal(size=out)
      state[f'lin{i}.model.1.weight'] = rng.uniform(size=(1, out, 1, 1))
      channels = out
    state = {k: np.float32(v) for k, v in state.items()}
    path = self.create_tempfile('lpips.npz').full_path
    np.savez(path, **state)
    return state, path

  @pytest.mark.torch
  def test_against_pytorch(self):
    torch = pytest.importorskip('torch')
    state, path = self._saved()
    state = {k: torch.tensor(v) for k, v in state.items()}

    def features(x):
      x = torch.tensor(2 * x - 1).permute(0, 3, 1, 2)
      shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
      x = (x - shift) / torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
      maps = []
      for name, stride, padding, pool in (
        ('slice1.0', 4, 2, 0), ('slice2.3', 1, 2, 1), ('slice3.6', 1, 1, 1),
        ('slice4.8', 1, 1, 0), ('slice5.10', 1, 1, 0),
      ):  # fmt: skip
        x = torch.nn.functional.max_pool2d(x, 3, 2) if pool else x
        weight, bias = (state[f'net.{name}.{p}'] for p in ('weight', 'bias'))
        x = torch.conv2d(x, weight, bias, stride, padding).relu()
        maps.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
      return maps

    weights = perceptual.load(path)
    a, b = _pair(shape=(3, 32, 36, 3))
    expected = sum(
      torch.conv2d((x - y) ** 2, state[f'lin{i}.model.1.weight']).mean((2, 3))
      for i, (x, y) in enumerate(zip(features(a), features(b)))
    )[:, 0]
    found = _lpips(weights, a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    every = jax.jit(perceptual.distances)(weights, a, b)
    np.testing.assert_allclose(jnp.diag(every), expected, rtol=1e-3)

  def test_matching_by_it(self):
    _, path = self._saved()
    weights = perceptual.load(path)
    a, b = _pair(shape=(3, 32, 32, 3), noise=0.05)
    order = np.array([2, 0, 1])
    found, restored = _similarity(b[order], a, weights)
    np.testing.assert_array_equal(restored, b)
    own = _lpips(weights, b, a).mean()
    np.testing.assert_allclose(found['lpips'], own, rtol=1e-5)
    zero = _lpips(weights, a, a)
    np.testing.assert_allclose(zero, np.zeros(3), atol=1e-6)

  def test_absent_or_wrong_files_are_named(self):
    with self.assertRaisesRegex(InputError, 'nowhere.npz.*perceptual.py'):
      perceptual.load('nowhere.npz')
    state, path = self._saved()
    state.pop('lin3.model.1.weight')
    np.savez(path, **state)
    with self.assertRaisesRegex(InputError, 'lacks lin3'):
      perceptual.load(path)

  def test_small_images_are_refused(self):
    for shape in ((30, 32, 3), (32, 32, 4)):
      with self.assertRaisesRegex(InputError, 'AlexNet'):
        perceptual.check(shape)
    perceptual.check((31, 31, 3))


if __name__ == '__main__':
  absltest.main()
