"""The run fingerprint: what a run was like, from every tick of it and from what the machine did.

docs/fingerprint.md has the formula of every field. A field that cannot be computed is None, with its reason under
`reasons`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from twin.fingerprint import convergence as steady
from twin.fingerprint import moments
from twin.fingerprint.convergence import (
    BLOCK_TICKS,
    QUIET_BLOCKS,
    Convergence,
    NeverSteady,
    hit_percent,
    response,
    variation,
)  # fmt: skip
from twin.fingerprint.coupling import carry, known_from, lagged_correlation
from twin.fingerprint.dynamics import decay_rate_hz
from twin.fingerprint.entropy import entropy_growth
from twin.fingerprint.noise import SIGNIFICANT, white_and_normal
from twin.fingerprint.series import NotKnown, mean_distance, mean_of, rounded, varies
from twin.fingerprint.spectrum import spectrum
from twin.heart import ticks as heart
from twin.kernels import MODE, Floats, Integers

SCHEMA = "fingerprint/1"
METRICS = (
    "tick_interval_ns", "cache_hits_delta", "bucket_hits_delta", "hot_word_count", "avg_word_heat", "window_width",
    "word_executions_delta",
)  # fmt: skip
"""The seven metrics, in the order of the correlation matrix."""
# A mean heat has the correlations of the total.
_METRIC_COLUMNS = (
    heart.C_PASSED,
    heart.C_CACHE_HITS,
    heart.C_BUCKET_HITS,
    heart.C_HOT,
    heart.C_TOTAL,
    heart.C_WINDOW,
    heart.C_WORDS,
)

MOST_TICKS = 10_000_000
"""Of longer runs the ticks are not kept in memory, and nothing that comes from them is known."""

MACHINE = (
    "energy_joules", "max_temp_millicelsius", "time_over_limit_ns", "throttle_ratio", "fps_mean", "latency_p99_ns",
)  # fmt: skip
"""Fields that come from the machine and not from ticks."""
SCORES = ("jitter_score", "convergence_score", "coupling_score", "overall_stability_score")

JITTER_WORST = 0.35
"""A mean jitter of this share of the interval, or more, scores 0."""
CORRELATION_CHANCE, CORRELATION_FULL = 0.2, 0.8
"""Correlations of load and interval that score 0, because the best of many lags reaches that by chance, and 100."""

_CONVERGENCE = ("converged", "convergence_time_ticks")
_CVS = ("cache_convergence_cv", "bucket_convergence_cv", "decay_convergence_cv", "window_convergence_cv")
_MEANS = ("cache_hit_percent_steady", "bucket_hit_percent_steady", "avg_jitter_ns_steady", "hotword_ratio_steady")
_RISES = ("cache_rise_time_ticks", "decay_rise_time_ticks")
_SETTLING = ("settling_time_ticks", "overshoot_percent")
_PAIRS = (("load", "heartbeat"), ("load", "cache"), ("heartbeat", "cache"))
_COUPLINGS = tuple(f"{a}_to_{b}_{what}" for a, b in _PAIRS for what in ("corr", "lag_ticks"))
_SPECTRUM = ("dominant_frequency_hz", "spectral_entropy")
_NOISE = ("jitter_is_white", "jitter_white_p", "jitter_is_normal", "jitter_normal_p")
TICK_FIELDS = (
    *_CONVERGENCE, "convergence_hold_ratio", *_CVS, *_MEANS, *_RISES, *_SETTLING, *_COUPLINGS,
    "metric_correlation_matrix", *_SPECTRUM, "dominant_eigenvalue", "eigenmode_decay_rate_hz", *_NOISE,
    "entropy_growth_rate", "metric_noise_coupling",
)  # fmt: skip
"""Fields that come from ticks, in order."""
_STEADY = ("convergence_hold_ratio", *_CVS, *_MEANS, *_RISES, *_SETTLING, "eigenmode_decay_rate_hz", *_NOISE)
FIELDS = (*TICK_FIELDS, *MACHINE, *SCORES)
"""The fields of the definition, in order."""


class _Fields:
    """Values and reasons: each name has one of them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def known(self, **values: Any) -> None:
        self.values.update(values)

    def unknown(self, names: Sequence[str], reason: str) -> None:
        for name in names:
            self.values[name] = None
            self.reasons[name] = reason

    def compute(self, names: Sequence[str], estimate: Callable[[], Sequence[Any]]) -> None:
        """Give the names what `estimate` finds, or its reason for finding nothing."""
        try:
            self.values.update(zip(names, estimate(), strict=True))
        except NotKnown as reason:
            self.unknown(names, str(reason))


def run_fingerprint(ticks: Integers | None, words: int, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint of a run, ready for JSON: `schema`, `FIELDS` in order, what else `machine` has, and `reasons`.

    `ticks` has every tick of the run in order, columns as in `twin.heart.ticks`, shape (COLUMNS, n), int64, n from 0
    on; None where they were more than `MOST_TICKS`. `words` is how many words the scenario has. `machine` is what
    `RunSummary.result` tells, its `reasons` included. Floats have nine significant digits; none is NaN or infinite.
    """
    fields = _Fields()
    if ticks is None:
        fields.unknown(TICK_FIELDS + SCORES, f"the run has more than {MOST_TICKS:,} ticks")
    elif ticks.shape[0] != heart.COLUMNS:
        raise ValueError(f"ticks have {ticks.shape[0]} columns; {heart.COLUMNS} are needed")
    else:
        columns = tuple(np.ascontiguousarray(row) for row in ticks)
        _describe(fields, columns, words)
    told = dict(machine)
    reasons = {**dict(told.pop("reasons", {}))}
    for name in MACHINE:
        source = "latency_p99_us" if name == "latency_p99_ns" else name
        if told.get(source) is None:
            fields.unknown((name,), reasons.get(source, "nothing told it"))
        else:
            fields.values[name] = told[source] * 1_000 if source != name else told[source]
    ordered = {name: rounded(fields.values[name]) for name in FIELDS}
    others = {name: rounded(value) for name, value in told.items() if name not in ordered}
    kept = {name: reason for name, reason in reasons.items() if name in others}
    named = {name: fields.reasons[name] for name in FIELDS if name in fields.reasons}
    return {"schema": SCHEMA, **ordered, **others, "reasons": {**named, **kept}}


def warm_up() -> None:
    """Compute a fingerprint of a made-up run that needs every kernel, so that all of them are there afterwards."""
    if MODE == "python":
        return
    number = np.arange(2 * QUIET_BLOCKS * BLOCK_TICKS, dtype=np.int64)
    ticks = np.zeros((heart.COLUMNS, len(number)), dtype=np.int64)
    ticks += 1_000 + number * 7_919 % 101
    ticks[heart.C_CACHE_HITS] *= 9
    ticks[heart.C_ELAPSED] = number * 1_000
    run_fingerprint(ticks, 1, {})


def _describe(fields: _Fields, columns: Sequence[Integers], words: int) -> None:
    """All that comes from ticks."""
    count = len(columns[heart.C_PASSED])
    hits = np.zeros(count)
    hit_percent(columns[heart.C_CACHE_HITS], columns[heart.C_BUCKET_HITS], hits)
    found = _converge(fields, hits)
    if found is not None:
        _steady(fields, columns, words, hits, found.time_ticks)
    _couplings(fields, columns, hits)
    _metrics(fields, columns)
    fields.compute(_SPECTRUM, lambda: spectrum(columns[heart.C_ELAPSED], columns[heart.C_PASSED].astype(np.float64)))
    _scores(fields, columns, found)


def _converge(fields: _Fields, hits: Floats) -> Convergence | None:
    try:
        found = steady.convergence(hits)
    except NotKnown as reason:
        fields.unknown((*_CONVERGENCE, *_STEADY), str(reason))
        if isinstance(reason, NeverSteady):
            fields.known(converged=False)
            del fields.reasons["converged"]
        return None
    fields.known(converged=True, convergence_time_ticks=found.time_ticks, convergence_hold_ratio=found.hold_ratio)
    if found.hold_ratio is None:
        fields.unknown(("convergence_hold_ratio",), "no block comes after those that made it steady")
    return found


def _steady(fields: _Fields, columns: Sequence[Integers], words: int, hits: Floats, start: int) -> None:
    """What the steady state is like, which begins at tick `start`, and how the run came there."""
    bucket = np.zeros(len(hits))
    hit_percent(columns[heart.C_BUCKET_HITS], columns[heart.C_CACHE_HITS], bucket)
    slopes = columns[heart.C_SLOPE].astype(np.float64)
    (cache_mean, cache_cv), (bucket_mean, bucket_cv), (slope_mean, slope_cv), (_, window_cv) = (
        variation(values, start) for values in (hits, bucket, slopes, columns[heart.C_WINDOW].astype(np.float64))
    )
    fields.values.update(zip(_CVS, (cache_cv, bucket_cv, slope_cv, window_cv), strict=True))
    passed = columns[heart.C_PASSED][start:]
    fields.known(
        cache_hit_percent_steady=cache_mean,
        bucket_hit_percent_steady=bucket_mean,
        avg_jitter_ns_steady=float(mean_distance(passed, columns[heart.C_ASKED][start:])),
        hotword_ratio_steady=float(mean_of(columns[heart.C_HOT][start:])) / words,
    )
    cache = response(hits, cache_mean)
    for name, rise in zip(_RISES, (cache.rise_ticks, response(slopes, slope_mean).rise_ticks), strict=True):
        fields.known(**{name: rise})
        if rise is None:
            fields.unknown((name,), "its moving mean never went 95 % of the way")
    fields.known(settling_time_ticks=cache.settling_ticks)
    if cache_mean > 0.0:
        fields.known(overshoot_percent=max(0.0, cache.peak / cache_mean - 1.0) * 100.0)
    elif cache.peak <= 0.0:
        fields.known(overshoot_percent=0.0)
    else:
        fields.unknown(("overshoot_percent",), "the steady value is 0, and it was above that before")
    metrics = tuple(columns[each] for each in _METRIC_COLUMNS)
    fields.compute(("eigenmode_decay_rate_hz",), lambda: (decay_rate_hz(metrics, start, float(mean_of(passed)) / 1e9),))

    def tests() -> Sequence[Any]:
        white, normal = white_and_normal(columns[heart.C_LATENESS][start:].astype(np.float64), "the lateness")
        return white >= SIGNIFICANT, white, normal >= SIGNIFICANT, normal

    fields.compute(_NOISE, tests)


def _couplings(fields: _Fields, columns: Sequence[Integers], hits: Floats) -> None:
    count = len(hits)
    if count < BLOCK_TICKS:
        fields.unknown(_COUPLINGS, _few(count))
        return
    load, heartbeat = (columns[each].astype(np.float64) for each in (heart.C_LOAD, heart.C_PASSED))
    cache = np.zeros(count)
    carry(hits, cache)

    def pair(a: str, b: str) -> tuple[float, int]:
        start = known_from(columns[heart.C_LOAD], heart.UNKNOWN_LOAD) if a == "load" else 0
        series = {"load": load, "heartbeat": heartbeat, "cache": cache}
        says = {"load": "the load", "heartbeat": "the interval", "cache": "the share of cache hits"}
        if b == "cache" and nothing_found:
            raise NotKnown("no tick executed a word")
        return lagged_correlation(series[a][start:], series[b][start:], says[a], says[b])

    nothing_found = bool(cache[0] < 0.0)
    for a, b in _PAIRS:
        names = f"{a}_to_{b}_corr", f"{a}_to_{b}_lag_ticks"
        fields.compute(names, functools.partial(pair, a, b))


def _metrics(fields: _Fields, columns: Sequence[Integers]) -> None:
    count = len(columns[heart.C_PASSED])
    if count < BLOCK_TICKS:
        fields.unknown(("metric_correlation_matrix", "dominant_eigenvalue", "metric_noise_coupling"), _few(count))
    else:
        metrics = tuple(columns[each] for each in _METRIC_COLUMNS)
        correlation, there = moments.correlations(metrics)
        matrix = [
            [float(correlation[i, j]) if i in there and j in there else None for j in range(len(METRICS))]
            for i in range(len(METRICS))
        ]
        fields.known(metric_correlation_matrix=matrix)
        if not there:
            fields.unknown(("metric_correlation_matrix",), "none of the metrics varies")
        fields.compute(("dominant_eigenvalue",), lambda: (moments.dominant_eigenvalue(correlation, there),))
        fields.compute(
            ("metric_noise_coupling",), lambda: (moments.mean_off_diagonal(*moments.difference_correlations(metrics)),)
        )
    metrics = tuple(columns[each] for each in _METRIC_COLUMNS)
    fields.compute(("entropy_growth_rate",), lambda: (entropy_growth(metrics, BLOCK_TICKS),))


def _few(count: int) -> str:
    return f"the run has {count} ticks; {BLOCK_TICKS:,} are needed"


def _scores(fields: _Fields, columns: Sequence[Integers], found: Convergence | None) -> None:
    """Absolute scores, 0 to 100. What is not steady earns nothing for convergence and for its steady jitter."""
    values = fields.values
    if found is not None:
        interval = float(mean_of(columns[heart.C_PASSED][found.time_ticks :]))
        share = values["avg_jitter_ns_steady"] / interval if interval > 0.0 else 1.0
        hold = 1.0 if found.hold_ratio is None else found.hold_ratio
        early = 1.0 - found.time_ticks / len(columns[heart.C_PASSED])
        fields.known(
            jitter_score=100.0 * max(0.0, 1.0 - share / JITTER_WORST), convergence_score=50.0 * early + 50.0 * hold
        )
    elif values["converged"] is None:
        fields.unknown(("jitter_score", "convergence_score"), fields.reasons["converged"])
    else:
        fields.known(jitter_score=0.0, convergence_score=0.0)
    r = values["load_to_heartbeat_corr"]
    if r is not None:
        way = (r - CORRELATION_CHANCE) / (CORRELATION_FULL - CORRELATION_CHANCE)
        fields.known(coupling_score=100.0 * min(1.0, max(0.0, way)))
    elif _answers_nothing(columns):
        fields.known(coupling_score=0.0)
    else:
        reason = fields.reasons["load_to_heartbeat_corr"]
        if values["jitter_score"] is not None:
            reason += "; the overall score is the mean of the other two"
        fields.unknown(("coupling_score",), reason)
    if values["jitter_score"] is None:
        fields.unknown(("overall_stability_score",), fields.reasons["jitter_score"])
        return
    scores = [values[name] for name in SCORES[:-1] if values[name] is not None]
    fields.known(overall_stability_score=sum(scores) / len(scores))


def _answers_nothing(columns: Sequence[Integers]) -> bool:
    """Whether the load varies and the interval does not."""
    load = columns[heart.C_LOAD]
    if len(load) < BLOCK_TICKS:
        return False
    try:
        start = known_from(load, heart.UNKNOWN_LOAD)
    except NotKnown:
        return False
    return varies(load[start:]) and not varies(columns[heart.C_PASSED][start:])
