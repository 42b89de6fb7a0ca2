"""A booster's trees in arrays for compiled code, which predicts the same bits as Booster.inplace_predict.

For one row and 300 trees XGBoost's call takes 110 µs, the compiled walk 12 µs, as benchmarks/serving/serve.py measures.
Each compiled forest is compared with XGBoost on probe rows. XGBoost itself predicts where the trees are of an
unsupported kind or any bit differs, and explains where contributions differ by more than XGBoost's rounding to float32.
"""

import ctypes
import json
import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.modeling.encoding import finite
from truecourse.modeling.xgboost_native import Booster, open_booster
from truecourse.wording import counted

if TYPE_CHECKING:
    from truecourse.modeling.shap_values import Attributions

log = logging.getLogger("truecourse.modeling.model")
PROBES = 512
"""Rows whose predictions are compared with XGBoost's."""
EXPLAINED, ROUNDING = 32, 1e-4
"""Rows whose contributions are compared, and the largest allowed difference relative to the largest contribution."""
_LINKS = {"reg:squarederror": "VALUE", "binary:logistic": "SIGMOID", "multi:softprob": "SOFTMAX"}


@dataclass(frozen=True)
class Forest:
    """A compiled forest, safe for threads. truecourse.modeling.forest_kernel describes the arrays.

    `attributions`: None where XGBoost explains."""

    features: int
    starts: Array
    depths: Array
    groups: Array
    nodes: Array
    category_bits: Array
    base: Array
    link: int
    attributions: "Attributions | None" = None

    def predict(self, matrix: Array, margin: bool = False) -> Array:
        """Predict as NativeBooster.predict() does. Raises ModelError for a matrix of another width."""
        kernel = _kernel()
        if matrix.shape[1] != self.features:
            expected = counted(self.features, "feature")
            raise ModelError(f"prediction failed: the model has {expected}, the matrix {matrix.shape[1]}")
        if matrix.dtype != np.float32 or not matrix.flags.carray:  # another type would trigger a new compilation
            matrix = np.array(matrix, np.float32, order="C")
        to = np.empty((len(matrix), len(self.base)), np.float32)
        link = kernel.VALUE if margin else self.link
        kernel.walk(matrix, self.starts, self.depths, self.groups, self.nodes, self.category_bits, self.base, link, to)
        return to[:, 0] if len(self.base) == 1 else to


@cache
def _kernel() -> Any:
    """Import the compiled code once: Numba takes a second, and an import statement half a microsecond a request."""
    from truecourse.modeling import forest_kernel

    return forest_kernel


def compile_forest(booster: Any) -> Forest | None:
    """Compile a booster's trees; None where XGBoost itself must predict."""
    why = ""
    try:
        learner = json.loads(booster.save_raw("json"))["learner"]  # may contain Infinity
        forest = _build_forest(learner)
        if forest is None:
            why = "its trees are of an unsupported kind"
        elif not _matches_xgboost(forest, open_booster(booster)):
            why = "the compiled predictions differ"
        else:
            forest = _with_attributions(forest, learner["gradient_booster"]["model"]["trees"], open_booster(booster))
    except Exception as error:  # no Numba, no writable or a broken cache: XGBoost predicts instead
        why = f"the trees could not be compiled ({type(error).__name__})"
    if why:
        log.warning("XGBoost itself predicts, which is slower: %s", why)
    return None if why else forest


def _with_attributions(forest: Forest, trees: list[dict[str, Any]], direct: Booster) -> Forest:
    """Add attributions to the forest, unless they differ from XGBoost's."""
    try:
        from truecourse.modeling.shap_values import Attributions

        attributions = Attributions(forest, trees)
        matrix = finite(_probes(forest)[:EXPLAINED])
        expected = direct.contributions(matrix).astype(np.float64).reshape(len(matrix), len(forest.base), -1)
        differences = np.abs(attributions(matrix) - expected)
    except Exception as error:
        log.warning("XGBoost itself explains, which is slower: compilation failed (%s)", type(error).__name__)
        return forest
    if not (differences <= ROUNDING * max(1.0, np.abs(expected).max())).all():
        log.warning("XGBoost itself explains, which is slower: the compiled contributions differ")
        return forest
    return replace(forest, attributions=attributions)


def _build_forest(learner: dict[str, Any]) -> Forest | None:
    from truecourse.modeling import forest_kernel

    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    link = _LINKS.get(learner["objective"]["name"])
    is_summed = booster["name"] == "gbtree" and "weight_drop" not in booster["model"]  # else DART weights its trees
    trees = booster["model"]["trees"] if is_summed else []
    if link is None or not trees or any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        return None
    features, base = int(parameters["num_feature"]), _base(parameters, link)
    groups, split_by = np.array(booster["model"]["tree_info"], np.int32), _concatenate(trees, "split_indices", np.int64)
    if features > np.iinfo(np.uint16).max or split_by.max() >= features or groups.max() >= len(base):
        return None  # the compiled code does not check bounds
    sizes = np.array([len(tree["left_children"]) for tree in trees])
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    nodes = np.zeros(sizes.sum(), forest_kernel.NODE)
    left, right = _concatenate(trees, "left_children", np.int32), _concatenate(trees, "right_children", np.int32)
    leaf, offsets = left < 0, np.repeat(starts, sizes)
    nodes["left"] = np.where(leaf, np.arange(len(nodes)), left + offsets)
    nodes["gap"] = np.where(leaf, 0, right - left)
    nodes["feature"] = np.where(leaf, 0, split_by)
    nodes["value"] = _concatenate(trees, "split_conditions", np.float32)
    nodes["missing"] = _concatenate(trees, "default_left", np.int32) == 0
    return Forest(
        features=features,
        starts=starts,
        depths=_depths(nodes, starts),
        groups=groups,
        nodes=nodes,
        category_bits=_categories(nodes, trees, starts),
        base=base,
        link=getattr(forest_kernel, link),
    )


def _concatenate(trees: list[dict[str, Any]], name: str, kind: Any) -> Array:
    return np.concatenate([np.array(tree[name], kind) for tree in trees])


def _depths(nodes: Array, starts: Array) -> Array:
    """Count the levels below each root."""
    depths, level, trees = np.zeros(len(starts), np.int32), starts.astype(np.int64), np.arange(len(starts))
    while len(level):
        inner = nodes["gap"][level] != 0
        level, trees = level[inner], trees[inner]
        depths[np.unique(trees)] += 1
        level = np.concatenate([nodes["left"][level], nodes["left"][level] + nodes["gap"][level]])
        trees = np.concatenate([trees, trees])
    return depths


def _categories(nodes: Array, trees: list[dict[str, Any]], starts: Array) -> Array:
    """Collect the bits of the categories that go right, 32 per word, and set in `nodes` where each split's bits start.

    The first word belongs to no split."""
    category_bits = [np.zeros(1, np.uint32)]
    first = 1
    for tree, start in zip(trees, starts.tolist(), strict=True):
        codes = np.array(tree["categories"], np.int64)
        parts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
        for place, segment, size in parts:
            mine = codes[segment : segment + size]
            bits = np.zeros(int(mine.max()) // 32 + 1, np.uint32)
            np.bitwise_or.at(bits, mine >> 5, np.uint32(1) << (mine & 31).astype(np.uint32))
            node = nodes[start + place]
            node["category"], node["first"], node["limit"] = 1, first, 32 * len(bits)
            category_bits.append(bits)
            first += len(bits)
    return np.concatenate(category_bits)


def _base(parameters: dict[str, str], link: str) -> Array:
    """Compute the base margins bit for bit as XGBoost does, with the same logarithm."""
    base = np.atleast_1d(np.array(json.loads(parameters["base_score"]), np.float32))
    if link == "SIGMOID":
        logarithm = ctypes.CDLL(None).logf  # of this process's C library
        logarithm.argtypes, logarithm.restype = [ctypes.c_float], ctypes.c_float
        one = np.float32(1)
        base = np.array([-logarithm(one / score - one) for score in base], np.float32)
    outputs = max(int(parameters["num_class"]), 1)
    return np.repeat(base, outputs) if len(base) == 1 else base


def _probes(forest: Forest) -> Array:
    """Draw (PROBES, d) rows with values at, below and above the splits, seen and unseen categories, missing values."""
    random = np.random.default_rng(0)
    matrix = np.full((PROBES, forest.features), np.nan, np.float32)
    splits = forest.nodes[forest.nodes["gap"] != 0]
    for feature in range(forest.features):
        mine = splits[splits["feature"] == feature]
        if len(mine):
            codes = random.integers(0, int(mine["limit"].max()) + 2, PROBES)
            near = random.choice(mine["value"], PROBES) + random.choice(np.array([-1, 0, 0, 1], np.float32), PROBES)
            matrix[:, feature] = codes if mine["category"].any() else near
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix


def _matches_xgboost(forest: Forest, direct: Booster) -> bool:
    matrix = _probes(forest)
    for margin in (False, True):
        expected, starts = direct.predict(matrix, margin), range(0, PROBES, 5)
        # Fewer than LANES rows take another path through the compiled code.
        small = np.concatenate([forest.predict(matrix[i : i + 5], margin) for i in starts])
        large = forest.predict(matrix, margin)
        if not expected.shape == small.shape == large.shape:
            return False
        if not expected.tobytes() == small.tobytes() == large.tobytes():
            return False
    return True
