"""Area under the ROC curve and average precision for many weightings of the same rows at once."""

import numpy as np

from truecourse.arrays import Array


def roc_auc(labels: Array, scores: Array, blocks: Array, weights: Array) -> Array:
    """Compute the AUC (b,) for block weights (b, blocks): P(a positive scores above a negative), ties counted half.

    NaN for one class."""
    # Correctly ranked pairs are counted once for each pair of blocks (of the positive, of the negative), then weighted.
    group = np.unique(scores, return_inverse=True)[1]
    positive, count = labels > 0, weights.shape[1]
    right = np.empty((count, count))
    for number in range(count):
        negative = np.bincount(group[~positive & (blocks == number)], minlength=int(group.max()) + 1)
        below = np.cumsum(negative) - negative / 2
        right[:, number] = np.bincount(blocks[positive], weights=below[group[positive]], minlength=count)
    pairs = [weights @ np.bincount(blocks[side], minlength=count) for side in (positive, ~positive)]
    total = pairs[0] * pairs[1]
    ranked = ((weights @ right) * weights).sum(axis=1)
    return np.asarray(np.divide(ranked, total, out=np.full(len(weights), np.nan), where=total > 0))


def average_precision(labels: Array, scores: Array, blocks: Array, weights: Array) -> Array:
    """Compute the average precision (b,) for block weights (b, blocks), as scikit-learn does."""
    order = np.argsort(scores, kind="stable")
    ordered, positive, block = scores[order], labels[order] > 0, blocks[order]
    group = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])
    size = int(group[-1]) + 1
    places = [(group[side], block[side]) for side in (positive, ~positive)]
    samples = np.empty(len(weights))
    for number, row in enumerate(weights):
        counted = [np.bincount(groups, weights=row[blocks], minlength=size) for groups, blocks in places]
        samples[number] = _area(*counted) if all(side.sum() for side in counted) else np.nan
    return samples


def _area(positive: Array, negative: Array) -> float:
    """Compute average precision from weights by distinct score, ascending."""
    found, all_above = np.cumsum(positive[::-1]), np.cumsum((positive + negative)[::-1])
    precision = np.divide(found, all_above, out=np.zeros_like(found), where=all_above > 0)
    return float(positive[::-1] @ precision / positive.sum())
