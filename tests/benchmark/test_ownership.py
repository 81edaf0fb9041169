"""One owner of a run folder at a time, whoever dies, and no write by a copy that lost it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmark import ownership
from benchmark.checkpoint import save_checkpoint, save_weights
from benchmark.ownership import Owner, Superseded, Token, alive, claim, owner_of
from benchmark.runs import Run, State

FORK = multiprocessing.get_context("fork")
ROUNDS = 200


def claims(run):
    return sorted(path.name for path in run.owner_folder.glob("*.json"))


def edit_claim(run, **changes):
    """As if another process had made the newest claim."""
    path = run.owner_folder / claims(run)[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def gone(_owner):
    return False


# --- who wins ---------------------------------------------------------------------------------------------------------


def race(folder, barrier, won):
    for number in range(ROUNDS):
        run = Run(folder, f"run-{number}")
        barrier.wait(60)
        won.put((number, os.getpid(), claim(run) is not None))
    won.close()
    won.join_thread()
    barrier.wait(60)  # alive until all rounds are over: a dead winner's run would be free


def test_of_two_processes_exactly_one_becomes_the_owner(tmp_path):
    barrier, won = FORK.Barrier(2), FORK.Queue()
    racers = [FORK.Process(target=race, args=(tmp_path, barrier, won)) for _ in range(2)]
    for racer in racers:
        racer.start()
    results = [won.get(timeout=60) for _ in range(2 * ROUNDS)]
    for racer in racers:
        racer.join(60)
    winners = [[pid for number, pid, is_winner in results if number == n and is_winner] for n in range(ROUNDS)]
    assert [len(pids) for pids in winners] == [1] * ROUNDS


def test_a_live_owner_keeps_everybody_off_until_it_lets_go(tmp_path):
    run = Run(tmp_path, "a")
    token = claim(run)
    assert token.holds() and owner_of(run) == Owner.here()
    assert claim(run) is None
    token.release()
    assert owner_of(run) is None
    again = claim(run)
    assert again.number == token.number + 1 and not token.holds()


def test_numbers_grow_and_only_the_last_two_claims_are_kept(tmp_path):
    run = Run(tmp_path, "a")
    for number in range(1, 6):
        token = claim(run)
        assert token.number == number
        token.release()
    assert claims(run) == ["000004.json", "000005.json"]


def test_a_person_may_seize_a_run(tmp_path):
    run = Run(tmp_path, "a")
    first = claim(run)
    second = claim(run, seize=True)
    assert second.holds() and not first.holds()
    first.release()  # must not let go what another one owns
    assert claim(run) is None


def test_a_claimant_who_looked_long_ago_does_not_win(tmp_path, monkeypatch):
    """Between its look and its claim others came and went, so that its number is free again."""
    run = Run(tmp_path, "a")
    for _ in range(4):
        claim(run).release()
    owner = claim(run)
    real = ownership._newest
    looks = iter([1])  # its look: of the claim 1; then what there is
    monkeypatch.setattr(ownership, "_newest", lambda folder: next(looks, None) or real(folder))
    monkeypatch.setattr(ownership, "_read", lambda *_: (Owner(), True))
    assert claim(run) is None
    monkeypatch.undo()
    assert owner.holds()


def test_a_file_system_without_hard_links_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match=r"hard links.*results_dir="):
        claim(Run(tmp_path, "a"))


# --- owners that are gone -----------------------------------------------------------------------------------------------


def claim_and_wait(folder, ready):
    claim(Run(folder, "a"))
    ready.set()
    signal.pause()


@pytest.fixture
def killed_owner(tmp_path):
    """A run whose owner was killed with SIGKILL."""
    ready = FORK.Event()
    process = FORK.Process(target=claim_and_wait, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    run = Run(tmp_path, "a")
    assert alive(owner_of(run)) and claim(run) is None
    os.kill(process.pid, signal.SIGKILL)
    yield run, process
    process.join(60)


def test_the_run_of_a_killed_owner_is_free(killed_owner):
    run, process = killed_owner
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now: nobody has asked how it ended
    assert not alive(owner_of(run))
    assert claim(run).number == 2


def test_a_process_id_that_is_used_again_is_not_the_owner(tmp_path):
    run = Run(tmp_path, "a")
    claim(run)
    edit_claim(run, started=Owner.here().started - 1)
    assert owner_of(run).pid == os.getpid() and not alive(owner_of(run))
    assert claim(run) is not None


def test_a_machine_that_was_started_again_has_no_owners_of_before(tmp_path):
    run = Run(tmp_path, "a")
    claim(run)
    edit_claim(run, boot="another")
    assert ownership.rebooted(owner_of(run)) and not alive(owner_of(run))


@pytest.mark.parametrize("content", ["", "{", '{"number"'])
def test_a_claim_that_a_crash_left_half_written_is_nobodys(tmp_path, content):
    run = Run(tmp_path, "a")
    claim(run)
    (run.owner_folder / "000001.json").write_text(content)
    assert claim(run).number == 2


@pytest.mark.parametrize(
    "changes", [{"host": "far-away"}, {"namespace": "pid:[1]"}, {"pid": None, "host": None, "job": "7.0"}]
)
def test_of_owners_elsewhere_the_launcher_knows(tmp_path, changes):
    run = Run(tmp_path, "a")
    claim(run)
    edit_claim(run, **changes)
    asked = []
    assert alive(owner_of(run)) and claim(run) is None  # nothing better is known
    assert claim(run, elsewhere=lambda owner: asked.append(owner) or False).number == 2
    assert [getattr(asked[0], key) for key in changes] == list(changes.values())


def test_an_owner_on_this_host_is_looked_at_whatever_the_launcher_says(tmp_path):
    run = Run(tmp_path, "a")
    claim(run, job="7.0")
    assert claim(run, job="8.0", elsewhere=gone) is None


# --- jobs that are started again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "job", "wins"),
    [("7.0", "7.1", True), ("7_3.2", "7_3.10", True), ("7.1", "7.0", False), ("7.1", "7.1", False), ("7.0", "8.1", False),
     ("7_3.0", "7_4.1", False), (None, "7.1", False), ("7.0", None, False)],
)  # fmt: skip
def test_a_later_restart_of_a_job_takes_over_from_a_live_copy(tmp_path, owner, job, wins):
    run = Run(tmp_path, "a")
    first = claim(run, job=owner)
    second = claim(run, job=job)
    assert (second is not None) == wins and first.holds() != wins


def test_an_earlier_restart_loses_even_after_the_later_one_has_let_go(tmp_path):
    run = Run(tmp_path, "a")
    claim(run, job="7.1").release()
    assert claim(run, job="7.0") is None
    assert claim(run, job="8.0") is not None


# --- a stale copy writes nothing ----------------------------------------------------------------------------------------


@pytest.fixture
def stale(tmp_path):
    """A run with the token of a copy that lost it, and the bytes of its folder."""
    run = Run(tmp_path, "a")
    old = replace(run, token=claim(run, job="7.0"))
    old.update(state=State.RUNNING)
    new = replace(run, token=claim(run, job="7.1"))
    new.update(state=State.RUNNING, wall_seconds=2.0)
    return old, {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


WRITES = {
    "record": lambda run, model, optimizer: run.update(state=State.DONE),
    "checkpoint": lambda run, model, optimizer: save_checkpoint(run.checkpoints, 3, model, optimizer, {}, run.guard),
    "weights": lambda run, model, optimizer: save_weights(run.weights_file, model, run.guard),
    "clearing": lambda run, model, optimizer: run.clear(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_stale_copy_cannot_write(stale, write):
    run, before = stale
    model = nn.Linear(2, 2)
    with pytest.raises(Superseded, match=r"Claim 1 of .*job 7\.1.*claim 2"):
        write(run, model, torch.optim.AdamW(model.parameters()))
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    hidden = [path for path in files if any(part.startswith(".") for part in path.relative_to(run.folder).parts)]
    assert {path: path.read_bytes() for path in files if path not in hidden} == before


def test_a_copy_that_is_taken_over_while_it_writes_its_record_does_not_replace_it(tmp_path, monkeypatch):
    run = Run(tmp_path, "a")
    old = replace(run, token=claim(run, job="7.0"))
    old.update(state=State.RUNNING)
    real = tempfile.mkstemp

    def slow_disk(*arguments, **options):
        monkeypatch.setattr(tempfile, "mkstemp", real)
        replace(run, token=claim(run, job="7.1")).update(wall_seconds=2.0)
        return real(*arguments, **options)

    monkeypatch.setattr(tempfile, "mkstemp", slow_disk)
    with pytest.raises(Superseded, match=r"Claim 1 of .*job 7\.1.*claim 2"):
        old.update(state=State.DONE)
    assert run.state == State.RUNNING and run.read()["wall_seconds"] == 2.0
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]


def test_a_copy_whose_folder_was_deleted_does_not_make_it_again(tmp_path):
    run = Run(tmp_path, "a")
    owned = replace(run, token=claim(run))
    for path in run.owner_folder.iterdir():
        path.unlink()
    with pytest.raises(Superseded, match="deleted"):
        owned.update(state=State.DONE)
    assert not run.record_file.exists()


def test_clearing_keeps_the_claims(tmp_path):
    run = Run(tmp_path, "a")
    owned = replace(run, token=claim(run))
    owned.update(state=State.DONE)
    (run.checkpoints / "step_1").mkdir(parents=True)
    run.log_file.touch()
    owned.clear()
    assert os.listdir(run.folder) == ["owner"]
    owned.token.check()


def test_a_token_means_the_same_in_another_process(tmp_path):
    """A claim made by a launcher may be checked and let go by who it started."""
    token = claim(Run(tmp_path, "a"))
    code = (
        "from pathlib import Path; from benchmark.ownership import Token; "
        f"token = Token(Path({str(token.folder)!r}), {token.number}); token.check(); token.release()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert owner_of(Run(tmp_path, "a")) is None
    assert token == Token(token.folder, token.number)


def test_owners_are_named_for_people():
    assert str(Owner("node7", 12, job="7.0")) == "job 7.0 as process 12 on node7"
    assert str(Owner(job="7.0")) == "job 7.0"
    assert str(Owner.here()) == f"process {os.getpid()} on {socket.gethostname()}"
    assert Owner.of({"host": "a", "pid": 1, "unknown": 2}) == Owner("a", 1)
