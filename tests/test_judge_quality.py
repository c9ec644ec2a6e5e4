"Hostile input to the measures of synthetic images, and what they may not depend on"
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel

from logex_nb.judge.quality import (
    Sample, artefact_auc, kid, memorisation, mirrored, mosaic, nearest_in_class, precision_recall, rate_sample,
    texture_statistics, vendi)


@pytest.fixture
def rng(): return np.random.default_rng(0)


@pytest.fixture
def sets(rng): return rng.normal(size=(60, 8)), rng.normal(.3, 1, (50, 8))


def images_like(rng, n, size=24): return rng.integers(0, 256, (n, size, size, 3), np.uint8)


def fails(call, message):
    with pytest.raises(ValueError) as error: call()
    assert message in str(error.value) and "\n" not in str(error.value)


MEASURES = dict(kid=lambda a, b: kid(a, b, size=5), precision_recall=precision_recall, vendi=lambda a, b: vendi(b),
                nearest=lambda a, b: nearest_in_class(b, np.zeros(len(b)), a, np.zeros(len(a))),
                artefact=lambda a, b: artefact_auc(a, b, np.zeros(len(a)), np.zeros(len(b))))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_counted_and_named(sets, measure, value):
    real, fake = sets
    fake[7, 3] = value
    fails(lambda: measure(real, fake), "of 1 of 50")


@pytest.mark.parametrize("measure", [m for k, m in MEASURES.items() if k != "vendi"])
def test_features_of_two_networks(sets, measure):
    fails(lambda: measure(sets[0], sets[1][:, :5]), "features of 8 and 5 dimensions")


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_images_instead_of_features(rng, measure):
    images = images_like(rng, 6)
    fails(lambda: measure(images, images), "expected [n, d]")


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_no_images_at_all(sets, measure):
    fails(lambda: measure(sets[0], sets[1][:0]), "0 ")


def test_subsets_larger_than_the_smaller_set(sets):
    fails(lambda: kid(*sets), "subsets of 100 from 60 real and 50 synthetic images: choose at least 1 subset and a size from 2 to 50")
    fails(lambda: kid(*sets, size=1), "size from 2 to 50")
    fails(lambda: kid(*sets, size=10, subsets=0), "at least 1 subset")


@pytest.mark.parametrize("images", [
    np.zeros((2, 24, 24, 3)), np.zeros((2, 24, 24), np.uint8), np.zeros((2, 3, 24, 24), np.uint8),
    np.zeros((2, 24, 24, 4), np.uint8), np.zeros((2, 24, 24, 3), np.int64)])
@pytest.mark.parametrize("measure", [texture_statistics, mosaic])
def test_pixels_that_are_no_rgb_bytes(images, measure): fails(lambda: measure(images), "expected uint8 [n, h, w, 3]")


def test_classes_without_images(sets):
    real, fake = sets
    a, b = np.arange(60) % 2, np.arange(50) % 3
    fails(lambda: nearest_in_class(fake, b, real, a), "class 2 has no image to compare with")
    fails(lambda: artefact_auc(real, fake, a, b), "class 2 has 0 real and 16 synthetic images")
    fails(lambda: artefact_auc(real, fake, a, np.zeros(50)), "class 1.0 has 30 real and 0 synthetic images")
    fails(lambda: memorisation(fake, b % 2, real[:10], a[:10], real[:3], a[:3]), "class 0 has 5 training and 2 unseen images")
    fails(lambda: nearest_in_class(fake, b[:-1], real, a), "50 images, labels of shape (49,)")


def test_sample_with_unequal_lengths(rng):
    images = images_like(rng, 4)
    fails(lambda: Sample(images, np.zeros(4), np.zeros((5, 2))), "4 images, 4 labels, 5 features")
    fails(lambda: Sample(images / 255, np.zeros(4), np.zeros((4, 2))), "expected uint8")


def test_kid_is_the_mean_over_the_subsets_that_its_seed_draws(sets):
    real, fake = sets
    draws, values = np.random.default_rng(5), []
    for _ in range(7):
        x, y = (s[draws.choice(len(s), 20, replace=False)] for s in (real, fake))
        off = ~np.eye(20, dtype=bool)
        values.append(polynomial_kernel(x)[off].mean() + polynomial_kernel(y)[off].mean() - 2 * polynomial_kernel(x, y).mean())
    assert np.allclose(kid(real, fake, subsets=7, size=20, seed=5), (np.mean(values), np.std(values)))


def test_order_precision_and_direction_do_not_count(sets, rng):
    real, fake = sets
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    for a, b in ((real[rng.permutation(60)], fake[rng.permutation(50)]), (real @ turn, fake @ turn), (real.astype(np.float32), fake.astype(np.float32))):
        assert precision_recall(a, b) == precision_recall(real, fake)
        assert np.isclose(vendi(b), vendi(fake), rtol=1e-5)


def test_portions_change_nothing(rng):
    real, fake = rng.normal(size=(1500, 3)), rng.normal(1, 1, (1100, 3))
    reach = [np.sort(cdist(x, x), axis=1)[:, 3] for x in (real, fake)]
    whole = cdist(fake, real)
    assert precision_recall(real, fake) == ((whole <= reach[0]).any(1).mean(), (whole.T <= reach[1]).any(1).mean())


def test_the_same_image_many_times(rng):
    same = np.ones((12, 4))
    assert precision_recall(same, same) == (1, 1)
    assert vendi(same) == pytest.approx(1)
    assert kid(same, same, size=6) == pytest.approx((0, 0))
    assert artefact_auc(same, same, np.zeros(12), np.zeros(12)).auc[0] == .5


def test_a_share_of_copies_is_that_share(rng):
    train, unseen = rng.normal(size=(10, 30)), rng.normal(size=(150, 30))
    for copies in (0, 20, 50, 100):
        fake = np.concatenate([train[np.arange(copies) % 10] + rng.normal(0, .05, (copies, 30)), rng.normal(size=(100 - copies, 30))])
        found = memorisation(fake, np.zeros(100), train, np.zeros(10), unseen, np.zeros(150)).iloc[0]
        assert found.copied == pytest.approx(copies / 100 + .05 * (1 - copies / 100), abs=.1)
        assert found.closer == pytest.approx(copies / 100 + .5 * (1 - copies / 100), abs=.15)


def test_copies_are_found_in_any_orientation(rng):
    train, unseen = images_like(rng, 8), images_like(rng, 20)
    for copy in (train, train[:, ::-1], train[:, :, ::-1], train[:, ::-1, ::-1]):
        banks = [(mosaic(x), y) for x, y in (mirrored(train, np.zeros(8)), mirrored(unseen, np.zeros(20)))]
        found = memorisation(mosaic(copy), np.zeros(8), *banks[0], *banks[1], views=4)
        assert found.to_train[0] == 0 and found.copied[0] == found.closer[0] == 1


@pytest.mark.parametrize("each", [2, 3])
def test_the_smallest_sets_that_can_be_rated(rng, each):
    labels = np.arange(each * 2) % 2
    s = lambda: Sample(images_like(rng, each * 2), labels, rng.normal(size=(each * 2, 3)))
    rated = rate_sample(s(), s(), (images_like(rng, 4), labels[:4]), (images_like(rng, 4), labels[:4]))
    assert np.isfinite(list(rated.values())).all() and rated["n"] == each * 2


def test_views_of_one_image_count_once(rng):
    "Images that look the same in every orientation: four rows of each are as one"
    blank = lambda n: np.broadcast_to(rng.integers(0, 256, (n, 1, 1, 3), np.uint8), (n, 16, 16, 3))
    train, unseen, fake = blank(6), blank(30), blank(40)
    plain = memorisation(mosaic(fake), np.zeros(40), mosaic(train), np.zeros(6), mosaic(unseen), np.zeros(30))
    (a, a_labels), (b, b_labels) = mirrored(train, np.zeros(6)), mirrored(unseen, np.zeros(30))
    assert np.allclose(plain, memorisation(mosaic(fake), np.zeros(40), mosaic(a), a_labels, mosaic(b), b_labels, views=4))
