"""What the figures say, in sentences that are computed: none of them knows beforehand how a run ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LOGISTIC, KNN = "logistic_regression", "knn"
UNTRAINED = "untrained"
NOTHING = "\u2013"  # a dash where there is no figure
CONTROLS = ("weighted", "rewired")  # what tells joint masking from masking hubs more often


def overall(annotation: Mapping[str, Any], classifier: str = LOGISTIC) -> dict[str, Mapping[str, Any]]:
    """Representation -> its score over all levels, by one classifier."""
    return {
        score["representation"]: score
        for score in annotation["scores"]
        if score["level"] is None and score["classifier"] == classifier
    }


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """``"above"`` or ``"below"`` where the 95 % intervals do not meet, else ``"level"``."""
    low, high = (one[end] if one[end] is not None else one["value"] for end in ("low", "high"))
    other_low, other_high = (other[end] if other[end] is not None else other["value"] for end in ("low", "high"))
    if low > other_high:
        return "above"
    return "below" if high < other_low else "level"


def show(interval: Mapping[str, Any] | None) -> str:
    """``0.812 [0.790, 0.834]``."""
    if interval is None:
        return NOTHING
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def leakage_at(audit: Mapping[str, Any], arm: str, which: int = 0) -> Mapping[str, Any]:
    """The leakage of an arm at the lowest threshold (`which` 0), or a later one."""
    leaks: Mapping[str, Any] = audit["arms"][arm]["leakage"][which]
    return leaks


def findings(audit: Mapping[str, Any], annotation: Mapping[str, Any]) -> list[str]:
    """Sentences on leakage, on `corr` beside the other arms, and on the arms beside the baselines."""
    scores = overall(annotation)
    sentences = _leakage(audit)
    sentences += _arms(scores, "macro_f1", "macro-F1 over all types")
    if scores["corr"]["rare_macro_f1"] is not None:
        sentences += _arms(scores, "rare_macro_f1", "macro-F1 over the rare types")
    sentences.append(_joint(scores))
    sentences += _baselines(scores)
    return sentences


def _leakage(audit: Mapping[str, Any]) -> list[str]:
    """At every threshold: one alone may flatter."""
    leaks = {arm: one["leakage"] for arm, one in audit["arms"].items()}
    sentences = []
    for i, (random, corr) in enumerate(zip(leaks["random"], leaks["corr"], strict=True)):
        change = "less" if corr["share"] < random["share"] else "not less"
        others = [f"{arm} {_percent(one[i])}" for arm, one in leaks.items() if arm not in ("random", "corr")]
        beside = f" (beside them: {', '.join(others)})" if others else ""
        sentences.append(
            f"Leakage: of the genes masked at random {_percent(random)} have a visible partner with |r| ≥ "
            f"{random['threshold']:g} in the same cell, of those masked by corr {_percent(corr)}, which is "
            f"{change}{beside}; with every gene counted as often as the cells hold it, and not as often as it is "
            f"masked, {_percent(random, 'standardised')} and {_percent(corr, 'standardised')}."
        )
    return sentences


def _percent(leak: Mapping[str, Any], measure: str = "share") -> str:
    return f"{100 * leak[measure]:.1f} %"


def _arms(scores: Mapping[str, Mapping[str, Any]], measure: str, words: str) -> list[str]:
    corr = scores["corr"]
    others = [name for name, score in scores.items() if score["kind"] == "embedding" and name != "corr"]
    verdicts: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    for name in others:
        verdicts[compare(corr[measure], scores[name][measure])].append(f"{name} ({scores[name][measure]['value']:.3f})")
    parts = []
    if verdicts["above"]:
        parts.append(f"lies above {listed(verdicts['above'])}")
    if verdicts["below"]:
        parts.append(f"lies below {listed(verdicts['below'])}")
    if verdicts["level"]:
        parts.append(f"cannot be told apart from {listed(verdicts['level'])}, for the intervals overlap")
    said = "; it ".join(parts) or "has no other arm beside it"
    return [f"{words[0].upper() + words[1:]}: corr reaches {show(corr[measure])} and {said}."]


def _joint(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether what `corr` gains can be put down to masking partners jointly."""
    corr, random = scores["corr"]["macro_f1"], scores["random"]["macro_f1"]
    there = [name for name in CONTROLS if name in scores]
    missing = [name for name in CONTROLS if name not in scores]
    if compare(corr, random) != "above":
        return "In this run corr is not above random masking: it gives no support to masking partners jointly."
    if missing:
        return (
            f"corr is above random masking, but without {listed(missing)} in the comparison this run cannot say "
            "whether masking partners jointly is the reason."
        )
    shared = [name for name in there if compare(corr, scores[name]["macro_f1"]) != "above"]
    if shared:
        return (
            f"corr is above random masking but not above {listed(shared, 'or')}, so that its gain cannot be put "
            "down to masking partners jointly: masking some genes more often, or in "
            "groups without biology, does as much here."
        )
    return (
        "corr is above random masking and above both controls, weighted and rewired, as joint masking would have it; "
        "one seed and one small model do not settle it."
    )


def _baselines(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    arms = {name: one for name, one in scores.items() if one["kind"] == "embedding" and name != UNTRAINED}
    baselines = {name: one for name, one in scores.items() if one["kind"] == "baseline"}
    best = max(arms, key=lambda name: arms[name]["macro_f1"]["value"])
    sentences = []
    if baselines:
        top = max(baselines, key=lambda name: baselines[name]["macro_f1"]["value"])
        verdict = compare(arms[best]["macro_f1"], baselines[top]["macro_f1"])
        words = {
            "above": "above",
            "below": "below: these models do not reach what plain components or variable genes give",
            "level": "level with it (the intervals overlap)",
        }[verdict]
        sentences.append(
            f"Baselines: {top} + logistic regression reaches {show(baselines[top]['macro_f1'])}; the best arm, {best} "
            f"({show(arms[best]['macro_f1'])}), lies {words}."
        )
    if UNTRAINED in scores:
        level = [name for name in arms if compare(arms[name]["macro_f1"], scores[UNTRAINED]["macro_f1"]) != "above"]
        start = f"The same model before any training reaches {show(scores[UNTRAINED]['macro_f1'])}"
        if level:
            sentences.append(f"{start}; {listed(level)} {'does' if len(level) == 1 else 'do'} not lie above it.")
        else:
            sentences.append(f"{start}; every arm lies above it.")
    return sentences


def listed(names: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
