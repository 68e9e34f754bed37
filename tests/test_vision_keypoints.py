"""Heatmaps, key points and their measures, against numbers by hand, loops and pycocotools."""

import keras
import numpy as np
import pytest

from resnet_keras.errors import InputError
from resnet_keras.vision.keypoints import COCO_SIGMAS, HeatmapLoss, decode, encode, oks, pck

SIZE, CELLS = (32, 24), (8, 6)


def drawn(*points, sigma=2.0, cells=CELLS):
    """Heatmaps `(key points, height, width)` and weights of one image."""
    maps, weights = encode(np.array([points], np.float32), SIZE, cells, sigma)
    maps, weights = map(keras.ops.convert_to_numpy, (maps, weights))
    return np.moveaxis(maps[0], 2, 0), weights[0].tolist()


def test_a_heatmap_is_a_gaussian_around_the_nearest_cell():
    (one, two, three), weights = drawn((9.9, 14.0, 1), (10.1, 13.9, 1), (10, 14, 0))
    assert weights == [1, 1, 0]
    # 9.9 / 4 + .5 = 2.975 and 14 / 4 + .5 = 4: column 2, row 4.
    assert np.unravel_index(one.argmax(), CELLS) == (4, 2) and one.max() == 1
    # 10.1 / 4 + .5 = 3.025 and 13.9 / 4 + .5 = 3.975.
    assert np.unravel_index(two.argmax(), CELLS) == (3, 3)
    assert one[4, 3] == pytest.approx(np.exp(-1 / 8)) and one[5, 4] == pytest.approx(
        np.exp(-(1 + 4) / 8)
    )
    assert not three.any()


def test_a_gaussian_ends_at_three_deviations():
    (one,), _ = drawn((8, 8, 1), sigma=1.0, cells=(32, 24))
    y, x = np.nonzero(one)
    # 8 / 1 + .5 = 8.5, cut to 8.
    assert (y.min(), y.max(), x.min(), x.max()) == (5, 11, 5, 11)
    assert one[5, 5] == pytest.approx(np.exp(-9))


@pytest.mark.parametrize(
    ("x", "weight", "there"),
    [(24 + 19, 1, True),  # 43 / 4 + .5 = 11.25: column 11 - 6 = 5, the last one
     (24 + 22, 0, False),  # 46 / 4 + .5 = 12: column 6, beyond
     (-26, 1, True),  # -26 / 4 + .5 = -6, whose right end is column 0
     (-30, 1, False),  # -7 and 6 + 1 are 0: MMPose keeps the point, of which nothing is seen
     (-34, 0, False)],
)  # fmt: skip
def test_key_points_beyond_the_border(x, weight, there):
    (one,), weights = drawn((x, 16, 1))
    assert weights == [weight] and one.any() == there
    (one,), weights = drawn((12, x + 8 if x > 0 else x, 1))
    assert weights == [weight] and one.any() == there


def test_decoding_by_hand():
    maps = np.zeros((1, 6, 8, 5), np.float32)
    maps[0, 3, 4, 0], maps[0, 3, 5, 0], maps[0, 2, 4, 0] = 2, 1, 1  # right and up
    maps[0, 3, 4, 1] = 0.5  # neither
    maps[0, 3, 1, 2], maps[0, 3, 2, 2], maps[0, 4, 1, 2] = 1, 0.5, 0.5  # column 1: no move of x
    maps[0, 5, 7, 3], maps[0, 4, 7, 3] = 1, 0.5  # the last column and row: none
    maps[0, :, :, 4] = -1
    found, scores = decode(maps, (24, 64))
    # A cell is 8 wide and 4 high.
    truth = [(34, 11), (32, 12), (8, 13), (56, 20), (-8, -4)]
    np.testing.assert_array_equal(found, [truth])
    np.testing.assert_array_equal(scores, [[2, 0.5, 1, 1, -1]])
    assert found.dtype == scores.dtype == np.float32


def test_decoding_follows_the_rule_of_mmpose_everywhere():
    """Its loop over key points, with its conditions, on heatmaps whose maximum is anywhere."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(40, 7, 5, 6)).astype(np.float32)
    found, scores = decode(maps, (28, 20))
    for n in range(40):
        for k in range(6):
            one = maps[n, :, :, k]
            y, x = np.unravel_index(one.argmax(), one.shape)
            right, down = x, y
            if 1 < x < 5 - 1 and 0 < y < 7:
                right = x + 0.25 * np.sign(one[y, x + 1] - one[y, x - 1])
            if 1 < y < 7 - 1 and 0 < x < 5:
                down = y + 0.25 * np.sign(one[y + 1, x] - one[y - 1, x])
            assert tuple(found[n, k]) == (4 * right, 4 * down)
            assert scores[n, k] == one.max()


def test_there_and_back():
    """The centre of a Gaussian has equal neighbours, so the cell itself comes back."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(8, 20, (5, 3, 2)), np.ones((5, 3, 1))], -1)
    maps, _ = encode(points.astype(np.float32), (32, 32), (8, 8), 2.0)
    found, scores = decode(keras.ops.convert_to_numpy(maps), (32, 32))
    np.testing.assert_array_equal(found, 4 * np.floor(points[..., :2] / 4 + 0.5))
    assert np.all(scores == 1)


def test_the_loss_is_a_mean_over_all_cells():
    points = np.array([[(8, 8, 1), (4, 20, 0)], [(12, 16, 1), (500, 8, 1)]], np.float32)
    maps, weights = map(keras.ops.convert_to_numpy, encode(points, SIZE, CELLS, 1.5))
    rng = np.random.default_rng(0)
    got = rng.normal(size=maps.shape).astype(np.float32)
    loss = HeatmapLoss(SIZE, sigma=1.5)
    truth = np.mean((got - maps) ** 2 * weights[:, None, None, :])
    assert float(loss(points, got)) == pytest.approx(truth, rel=1e-6)
    assert weights.tolist() == [[1, 0], [1, 0]]
    again = HeatmapLoss.from_config(loss.get_config())
    assert float(again(points, got)) == float(loss(points, got))
    assert float(loss(points, got.astype(np.float16))) == pytest.approx(truth, rel=1e-2)


def test_pck_by_hand():
    truth = np.array([[(0, 0, 1), (5, 5, 1), (9, 9, 0)], [(0, 0, 1), (5, 5, 0), (9, 9, 0)]])
    found = np.array([[(1.9, 0), (5, 7), (0, 0)], [(0, 3.9), (0, 0), (0, 0)]])
    # Thresholds of 2 and 4 pixels; a distance of exactly that is too far.
    shares = pck(found, truth, np.array([20, 40]))
    np.testing.assert_array_equal(shares, [1, 0, np.nan])
    np.testing.assert_array_equal(pck(found, truth, np.array([20, 30])), [0.5, 0, np.nan])
    np.testing.assert_array_equal(pck(found, truth, np.array([20, 40]), 0.11)[:2], [1, 1])


def test_oks_by_hand():
    truth = np.array([[(10, 10, 2), (20, 20, 1), (0, 0, 0)], [(0, 0, 0)] * 3])
    found = np.array([[(13, 14), (20, 20), (9, 9)], [(0, 0)] * 3])
    # 5 pixels, sigma .05, area 2500: exp(-25 / (2 * 2500 * .01)) = exp(-.5).
    got = oks(found, truth, np.array([2500, 1]), (0.05, 0.1, 0.1))
    np.testing.assert_allclose(got, [(np.exp(-0.5) + 1) / 2, np.nan])
    with pytest.raises(InputError, match="for each of 3 key points. Received: 2"):
        oks(found, truth, np.array([1, 1]), (0.1, 0.1))


def test_oks_is_that_of_pycocotools():
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    coco = pytest.importorskip("pycocotools.coco")
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(0, 200, (6, 17, 2)), rng.integers(0, 3, (6, 17, 1))], -1)
    truth[:, 0, 2] = 2  # at least one is visible
    found = truth[..., :2] + rng.normal(0, 8, (6, 17, 2))
    areas = rng.uniform(500, 20_000, 6)
    sides = []
    for points in (truth, np.concatenate([found, np.ones((6, 17, 1))], -1)):
        database = coco.COCO()
        database.dataset = {
            "images": [{"id": n} for n in range(1, 7)], "categories": [{"id": 1}],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "keypoints": p.ravel().tolist(),
                 "num_keypoints": int((p[:, 2] > 0).sum()), "area": area, "iscrowd": 0, "score": 1,
                 "bbox": [0, 0, 1, 1]}
                for n, (p, area) in enumerate(zip(points, areas, strict=True), 1)
            ],
        }  # fmt: skip
        database.createIndex()
        sides.append(database)
    evaluation = cocoeval.COCOeval(*sides, "keypoints")
    assert tuple(evaluation.params.kpt_oks_sigmas) == pytest.approx(COCO_SIGMAS, abs=1e-12)
    evaluation.evaluate()
    theirs = [evaluation.ious[n, 1][0, 0] for n in range(1, 7)]
    np.testing.assert_allclose(oks(found, truth, areas, COCO_SIGMAS), theirs, rtol=1e-12)
