"""A booster's trees, laid out to be walked by compiled code: the answers of Booster.inplace_predict, bit for bit.

For one row of 300 trees XGBoost's call takes 110 µs, and the walk 12. A forest is held against XGBoost's answers when
it is made: a model that it does not know how to walk, or whose answers differ in a bit, is left to XGBoost. So are its
explanations where they differ by more than XGBoost's own rounding to float32.
"""

import ctypes
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.modeling.encoding import finite
from truecourse.modeling.xgboost_native import NativeBooster
from truecourse.wording import counted

if TYPE_CHECKING:
    from truecourse.modeling.shap_values import Attributions

log = logging.getLogger("truecourse.modeling.model")
PROBES = 512
"""Rows that are held against XGBoost's answers when a forest is made."""
EXPLAINED, ROUNDING = 32, 1e-4
"""And rows that are held against its contributions, and how far these may differ, as a part of the largest."""
_LINKS = {"reg:squarederror": "VALUE", "binary:logistic": "SIGMOID", "multi:softprob": "SOFTMAX"}


@dataclass(frozen=True)
class Forest:
    """Safe for threads. `nodes` and what goes with them are as truecourse.modeling.forest_kernel takes them.
    `attributions`: None where XGBoost is to explain."""

    features: int
    starts: Array
    depths: Array
    groups: Array
    nodes: Array
    words: Array
    base: Array
    link: int
    attributions: "Attributions | None" = None

    def predict(self, matrix: Array, margin: bool = False) -> Array:
        """As Direct.predict(). Raises ModelError for a matrix of another width."""
        from truecourse.modeling.forest_kernel import VALUE, walk

        if matrix.shape[1] != self.features:
            raise ModelError(
                f"the model does not predict: it has {counted(self.features, 'feature')}, not {matrix.shape[1]}"
            )
        if matrix.dtype != np.float32 or not matrix.flags.carray:  # for another kind of array it would be compiled anew
            matrix = np.array(matrix, np.float32, order="C")
        to = np.empty((len(matrix), len(self.base)), np.float32)
        link = VALUE if margin else self.link
        walk(matrix, self.starts, self.depths, self.groups, self.nodes, self.words, self.base, link, to)
        return to[:, 0] if len(self.base) == 1 else to


def compile_forest(booster: Any) -> Forest | None:
    """None for a booster that is to be left to XGBoost."""
    why = ""
    try:
        learner = json.loads(booster.save_raw("json"))["learner"]  # which may hold Infinity
        forest = _laid_out(learner)
        if forest is None:
            why = "its trees are of a kind that is not walked here"
        elif not _agrees(forest, NativeBooster(booster)):
            why = "the compiled walk gave other answers"
        else:
            forest = _explaining(forest, learner["gradient_booster"]["model"]["trees"], NativeBooster(booster))
    except Exception as error:  # no Numba here, no place for its cache, a broken one: whatever it is, XGBoost answers
        why = f"the walk could not be compiled ({type(error).__name__})"
    if why:
        log.warning("XGBoost itself predicts, which is slower: %s", why)
    return None if why else forest


def _explaining(forest: Forest, trees: list[dict[str, Any]], direct: NativeBooster) -> Forest:
    """With its attributions, unless they differ from XGBoost's."""
    try:
        from truecourse.modeling.shap_values import Attributions

        attributions = Attributions(forest, trees)
        matrix = finite(_probes(forest)[:EXPLAINED])
        wanted = direct.contributions(matrix).astype(np.float64).reshape(len(matrix), len(forest.base), -1)
        far = np.abs(attributions(matrix) - wanted)
    except Exception as error:
        log.warning("XGBoost itself explains, which is slower: it could not be compiled (%s)", type(error).__name__)
        return forest
    if not (far <= ROUNDING * max(1.0, np.abs(wanted).max())).all():
        log.warning("XGBoost itself explains, which is slower: the compiled contributions were others")
        return forest
    return replace(forest, attributions=attributions)


def _laid_out(learner: dict[str, Any]) -> Forest | None:
    from truecourse.modeling import forest_kernel

    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    link = _LINKS.get(learner["objective"]["name"])
    trees = booster["model"]["trees"] if booster["name"] == "gbtree" else []
    if link is None or not trees or any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        return None
    features, base = int(parameters["num_feature"]), _base(parameters, link)
    groups, split_by = np.array(booster["model"]["tree_info"], np.int32), _joined(trees, "split_indices", np.int64)
    if features > np.iinfo(np.uint16).max or split_by.max() >= features or groups.max() >= len(base):
        return None  # the walk itself looks at no bounds
    sizes = np.array([len(tree["left_children"]) for tree in trees])
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    nodes = np.zeros(sizes.sum(), forest_kernel.NODE)
    left, right = _joined(trees, "left_children", np.int32), _joined(trees, "right_children", np.int32)
    leaf, offsets = left < 0, np.repeat(starts, sizes)
    nodes["left"] = np.where(leaf, np.arange(len(nodes)), left + offsets)
    nodes["gap"] = np.where(leaf, 0, right - left)
    nodes["feature"] = np.where(leaf, 0, split_by)
    nodes["value"] = _joined(trees, "split_conditions", np.float32)
    nodes["missing"] = _joined(trees, "default_left", np.int32) == 0
    return Forest(
        features=features,
        starts=starts,
        depths=_depths(nodes, starts),
        groups=groups,
        nodes=nodes,
        words=_categories(nodes, trees, starts),
        base=base,
        link=getattr(forest_kernel, link),
    )


def _joined(trees: list[dict[str, Any]], name: str, kind: Any) -> Array:
    return np.concatenate([np.array(tree[name], kind) for tree in trees])


def _depths(nodes: Array, starts: Array) -> Array:
    """The levels below each root."""
    depths, level, trees = np.zeros(len(starts), np.int32), starts.astype(np.int64), np.arange(len(starts))
    while len(level):
        inner = nodes["gap"][level] != 0
        level, trees = level[inner], trees[inner]
        depths[np.unique(trees)] += 1
        level = np.concatenate([nodes["left"][level], nodes["left"][level] + nodes["gap"][level]])
        trees = np.concatenate([trees, trees])
    return depths


def _categories(nodes: Array, trees: list[dict[str, Any]], starts: Array) -> Array:
    """Bits of the categories that go right, 32 a word, and where each split's begin. The first word is nobody's."""
    words = [np.zeros(1, np.uint32)]
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
            words.append(bits)
            first += len(bits)
    return np.concatenate(words)


def _base(parameters: dict[str, str], link: str) -> Array:
    """What the sums begin with, before the link: XGBoost's, to the bit, by the logarithm that it takes."""
    base = np.atleast_1d(np.array(json.loads(parameters["base_score"]), np.float32))
    if link == "SIGMOID":
        logarithm = ctypes.CDLL(None).logf  # of the C library that this process runs with
        logarithm.argtypes, logarithm.restype = [ctypes.c_float], ctypes.c_float
        one = np.float32(1)
        base = np.array([-logarithm(one / score - one) for score in base], np.float32)
    outputs = max(int(parameters["num_class"]), 1)
    return np.repeat(base, outputs) if len(base) == 1 else base


def _probes(forest: Forest) -> Array:
    """(PROBES, d) rows of values at, below and above the splits, of categories known and unknown, and of missing
    values."""
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


def _agrees(forest: Forest, direct: NativeBooster) -> bool:
    matrix = _probes(forest)
    for margin in (False, True):
        wanted, few = direct.predict(matrix, margin), range(0, PROBES, 5)  # fewer than LANES go down by themselves
        parts = np.concatenate([forest.predict(matrix[i : i + 5], margin) for i in few])
        whole = forest.predict(matrix, margin)
        if not wanted.shape == parts.shape == whole.shape or not wanted.tobytes() == parts.tobytes() == whole.tobytes():
            return False
    return True
