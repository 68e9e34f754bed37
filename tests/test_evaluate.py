"""Top-1 and top-5 by their definition."""

import numpy as np

from resnet_keras.evaluate import _ranks


def test_ranks_count_the_classes_that_are_better():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert _ranks(scores, [2, 0]).tolist() == [1, 0]


def test_equal_scores_and_nan_are_not_right():
    scores = np.array([[0.5, 0.5, 0.0], [np.nan, np.nan, np.nan]])
    assert _ranks(scores, [0, 0]).tolist() == [1, 3]
