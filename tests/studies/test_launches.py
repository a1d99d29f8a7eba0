from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from hwbench.studies.launches import in_blocks, interleave
from hwbench.worker.protocol import Job


def jobs(profiles: int, blocks: int) -> list[Job]:
    return [
        Job("launch", {"profile": p, "launch": b}, block=b, exclusive=True)
        for p in range(profiles)
        for b in range(blocks)
    ]


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31))
def test_launch_k_of_every_profile_comes_before_launch_k_plus_1_of_any(profiles, blocks, seed):
    ordered = in_blocks(jobs(profiles, blocks), seed)
    assert [job.block for job in ordered] == [block for block in range(blocks) for _ in range(profiles)]
    assert {job.key for job in ordered} == {job.key for job in jobs(profiles, blocks)}


def test_the_order_within_blocks_is_drawn_and_depends_on_the_seed_alone():
    ordered = in_blocks(jobs(4, 20), seed=3)
    orders = {tuple(job.params["profile"] for job in ordered if job.block == block) for block in range(20)}
    assert len(orders) > 5
    assert ordered == in_blocks(list(reversed(jobs(4, 20))), seed=3)
    assert ordered != in_blocks(jobs(4, 20), seed=4)
    first = {job.params["profile"] for job in ordered[::4]}
    assert len(first) > 1


def test_jobs_of_no_block_come_first_as_planned():
    alone = [Job("memory", {"n": n}, exclusive=True) for n in range(3)]
    ordered = in_blocks([*jobs(2, 2), *alone], seed=0)
    assert ordered[:3] == alone
    assert dataclasses.replace(alone[0], block=4).key == alone[0].key


def run(name, blocks, done):
    for block in blocks:
        yield Job("launch", {"run": name, "launch": block}, block=block, exclusive=True)
        done.append((name, block))
    return name


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 2**31))
def test_interleaved_runs_go_through_the_blocks_together(lengths, seed):
    done = []
    runs = [run(name, [None, *range(length)], done) for name, length in enumerate(lengths)]
    assert interleave(runs, seed) == list(range(len(lengths)))
    blocks = [-1 if block is None else block for _, block in done]
    assert blocks == sorted(blocks)
    assert len(done) == sum(lengths) + len(lengths)


def test_the_order_of_interleaved_runs_changes_from_block_to_block():
    done = []
    interleave([run(name, range(30), done) for name in "ab"], seed=1)
    first = [name for name, _ in done[::2]]
    assert 5 < first.count("a") < 25
