from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from shared_run import RUN_HERE, SEED, SETTINGS, bare_outputs

DRAWS = SETTINGS["noise"]["draws"]


def words(kind: str, draw: int, name: str, n: int) -> np.ndarray:
    digest = hashlib.sha256(json.dumps([kind, SEED, draw, name]).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n)


def uniform(raw: np.ndarray) -> np.ndarray:
    return (raw >> np.uint64(11)) / 2.0**53


def noisy(x: np.ndarray, snr_db: float, draw: int, name: str) -> np.ndarray:
    """x + n with Var(n) = Var(x) / 10^(SNR/10), sample by sample, n normal by Box and Muller's transform."""
    u = uniform(words("gaussian_input", draw, name, x.size)).reshape(len(x), -1)
    made = np.empty_like(x)
    for index, sample in enumerate(x):
        radius, angle = np.sqrt(-2 * np.log(1 - u[index, ::2])), 2 * np.pi * u[index, 1::2]
        normal = np.ravel(np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]))
        sigma = np.sqrt(sample.astype(np.float64).var() / 10 ** (snr_db / 10))
        made[index] = sample + (sigma * normal).reshape(sample.shape)
    return made


@pytest.mark.parametrize("snr_db", [10, 0])
def test_accuracy_under_gaussian_noise_is_what_noise_added_by_hand_gives(shared, snr_db):
    name = shared.run.record["model"]["inputs"][0]["name"]
    path = shared.deployed("cpu-int8")
    right = [
        bare_outputs(path, noisy(shared.x, snr_db, draw, name)).argmax(axis=1) == shared.y for draw in range(DRAWS)
    ]
    row = shared.row("cpu-int8", "noise", "top1", snr_db=snr_db)
    assert row.value == pytest.approx(np.mean(right))
    assert row.n == DRAWS * len(shared.x)
    clean = bare_outputs(path, shared.x).argmax(axis=1) == shared.y
    drop = shared.row("cpu-int8", "noise", "accuracy_drop", snr_db=snr_db)
    assert drop.value == pytest.approx(clean.mean() - np.mean(right))


def test_impulse_noise_sets_elements_to_the_samples_extremes(shared):
    name = shared.run.record["model"]["inputs"][0]["name"]
    right = []
    for draw in range(DRAWS):
        raw = words("impulse_input", draw, name, shared.x.size).reshape(shared.x.shape)
        high = shared.x.max(axis=(1, 2, 3), keepdims=True)
        low = shared.x.min(axis=(1, 2, 3), keepdims=True)
        salted = np.where(uniform(raw) < 0.1, np.where(raw % 2 == 1, high, low), shared.x)
        right.append(bare_outputs(shared.deployed("cpu-int8"), salted).argmax(axis=1) == shared.y)
    assert shared.row("cpu-int8", "noise", "top1", impulse_rate=0.1).value == pytest.approx(np.mean(right))


@pytest.mark.parametrize("profile", RUN_HERE)
def test_every_setting_has_accuracy_and_its_loss_with_intervals(shared, profile):
    conditions = ['{"snr_db": 10}', '{"snr_db": 0}', '{"impulse_rate": 0.1}', '{"weight_sigma": 0.02}']
    for metric in ("top1", "accuracy_drop"):
        rows = shared.rows(profile, "noise", metric)
        assert [row.condition for row in rows] == conditions
        assert all(row.ci_low <= row.value <= row.ci_high for row in rows)


def test_more_noise_costs_more(shared):
    drops = [shared.row("cpu-fp32", "noise", "accuracy_drop", snr_db=snr).value for snr in (10, 0)]
    assert drops[0] < drops[1]
