"""What would be submitted: arrays, sbatch's options, the frozen code, and SLURM's refusals; nothing here needs SLURM."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmark import provenance
from benchmark.grid import Cell
from benchmark.runs import Run, State
from slurm.frozen_code import freeze
from slurm.job import CellJob
from slurm.profile import load_profile
from slurm.queue import ENDED, Job, Place
from slurm.submission import arrays_of, python_of, refusal, sbatch_parameters
from slurm.watch import lost
from tests.slurm.fake_grid import ROOT


def cells(tmp_path, *configs):
    base = {"devices": 1, "results_dir": str(tmp_path)}
    return [(Cell({}, 0, {**base, **one}, "g"), Run(tmp_path, f"r{number}")) for number, one in enumerate(configs)]


def names(array):
    return [run.run_id for _, run in array.cells]


def test_an_array_holds_the_runs_that_ask_for_the_same(tmp_path):
    found = arrays_of(load_profile(["slurm=local_cluster"]), cells(tmp_path, {}, {"devices": 2}, {}, {"devices": 2}))
    assert [names(array) for array in found] == [["r0", "r2"], ["r1", "r3"]]


def test_large_arrays_are_divided(tmp_path):
    found = arrays_of(load_profile(["slurm=local_cluster"]), cells(tmp_path, *[{}] * 7), size=3)
    assert [len(array.cells) for array in found] == [3, 3, 1]
    assert [name for array in found for name in names(array)] == [f"r{i}" for i in range(7)]


def test_runs_that_start_from_others_are_an_array_of_their_own(tmp_path):
    found = arrays_of(load_profile(["slurm=local_cluster"]), cells(tmp_path, {"init_from": "r1"}, {}, {"init_from": "r0"}))
    assert [(array.wave, names(array)) for array in found] == [(0, ["r1"]), (1, ["r0"]), (2, ["r2"])]


def test_what_sbatch_is_told(tmp_path):
    profile = load_profile(["slurm=example_gpu", "slurm.account=ours", "slurm.options={reservation: deadline}"])
    resources = profile.resources({"devices": 16, "scale": "paper", "model": {"name": "r50"}})
    told = sbatch_parameters(profile, resources, "name", tmp_path / "with space", ["12", "13"])
    assert (told["nodes"], told["ntasks_per_node"], told["gpus_per_node"], told["cpus_per_task"]) == (2, 8, 8, 8)
    assert told["mem"] == f"{60 * 1024 * 8}M" and told["time"] == 23 * 60 and told["account"] == "ours" and "qos" not in told
    assert told["additional_parameters"] == {"requeue": True, "reservation": "deadline", "dependency": "afterany:12:13"}
    assert told["setup"][:2] == ["module load cuda", "export NCCL_DEBUG=WARN"]
    script = "\n".join([*told["setup"][2:], "echo $PYTHONPATH"])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/a"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == f"{tmp_path}/with space:/a"


def test_runs_on_processors_ask_for_no_gpu(tmp_path):
    profile = load_profile(["slurm=local_cluster"])
    assert "gpus_per_node" not in sbatch_parameters(profile, profile.resources({"devices": 1}), "name", tmp_path)


@pytest.mark.parametrize(
    ("words", "python"),
    [([], sys.executable), (["slurm.python=/opt/python3"], "/opt/python3"),
     (["slurm.container='apptainer exec --nv a.sif'"], "apptainer exec --nv a.sif python"),
     (["slurm.container='apptainer exec a.sif'", "slurm.python=python3.12"], "apptainer exec a.sif python3.12")],
)
def test_the_python_of_jobs(words, python):
    assert python_of(load_profile(["slurm=local_cluster", *words])) == python


def test_a_refusal_is_slurms_own_sentence():
    stderr = ("sbatch: error: Memory specification can not be satisfied\n"
              "sbatch: error: Batch job submission failed: Requested node configuration is not available\n")
    said = refusal(stderr)
    assert "Memory specification can not be satisfied; Batch job submission failed" in said and "\n" not in said
    assert refusal("bash: sbatch: command not found\n").endswith("command not found")
    assert "without a word" in refusal("")


@pytest.mark.parametrize("place", [Place("p2m_voc-1121-101500-1f2e-0", 0), Place("a_b_c", 999)])
def test_a_place_is_found_again_in_what_owners_are_called(place):
    assert Place.of(f"{place}.3") == Place.of(f"{place}.-1") == place


def test_jobs_of_other_schedulers_have_no_place():
    assert Place.of("12.0") is None


def record(state):
    return {"state": state, "submission": {"name": "x", "index": 3}}


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_a_job_that_ended_without_a_word_says_why_its_run_is_over(ended):
    end = lost(record("running"), Job("12_3", ended, "exit 1:0", "n7"))
    assert end.state == ENDED[ended] and all(part in end.message for part in ("12_3", ended, "exit 1:0", "n7"))


def test_a_job_that_slurm_never_heard_of_is_submitted_again():
    end = lost(record("submitted"), None)
    assert end.state == State.CANCELLED and "x_3" in end.message


@pytest.mark.parametrize(
    ("told", "job"),
    [
        (record("running"), Job("1", "RUNNING")), (record("submitted"), Job("1", "PENDING")),
        (record("done"), Job("1", "COMPLETED")), (record("running"), Job("1", "COMPLETING")), ({"state": "running"}, None),
        (None, None),
    ],
)
def test_nothing_else_is_lost(told, job):
    assert lost(told, job) is None


# --- the code that jobs run -------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small project under git, in place of this one."""
    root = tmp_path / "checkout"
    for name, text in {"methods/a.py": "1", "benchmark/b.py": "2", ".gitignore": "*.log\n", "results/big.txt": "x",
                       "methods/__pycache__/a.pyc": "x", "pyproject.toml": "", "methods/old.py": "3"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=root, check=True,
                       capture_output=True)

    git("init", "-q")
    git("add", "methods/a.py", "methods/old.py", "benchmark", "pyproject.toml", ".gitignore")
    git("commit", "-q", "-m", "first")
    (root / "methods" / "old.py").unlink()
    (root / "methods" / "new.py").write_text("4")
    (root / "methods" / "noise.log").write_text("5")
    (root / ".gitignore").write_text("*.log\n__pycache__/\n")
    monkeypatch.setattr(provenance, "ROOT", root)
    monkeypatch.setattr(provenance, "FROZEN", root / "revision.json")
    return root


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_frozen_code_is_the_working_tree(checkout, tmp_path):
    code = freeze(tmp_path / "code")
    assert files(code) == ["benchmark/b.py", "methods/a.py", "methods/new.py", "pyproject.toml", "revision.json"]
    told = json.loads((code / "revision.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout.strip()
    assert told == {"revision": head, "dirty": True}


def test_later_edits_do_not_reach_frozen_code(checkout, tmp_path):
    first = freeze(tmp_path / "code")
    assert freeze(tmp_path / "code") == first
    (checkout / "methods" / "a.py").write_text("edited")
    second = freeze(tmp_path / "code")
    assert second != first
    assert (first / "methods" / "a.py").read_text() == "1" and (second / "methods" / "a.py").read_text() == "edited"


def test_without_git_all_files_are_frozen_but_what_python_makes(checkout, tmp_path):
    subprocess.run(["rm", "-r", checkout / ".git"], check=True)
    code = freeze(tmp_path / "code")
    assert "methods/a.py" in files(code) and "results/big.txt" not in files(code) and not list(code.rglob("__pycache__"))
    assert json.loads((code / "revision.json").read_text()) == {"revision": None, "dirty": None}


def test_the_revision_of_frozen_code_is_that_of_its_checkout(checkout, tmp_path, monkeypatch):
    expected = provenance.code_revision()
    code = freeze(tmp_path / "code")
    monkeypatch.setattr(provenance, "ROOT", code)
    monkeypatch.setattr(provenance, "FROZEN", code / "revision.json")
    assert provenance.code_revision() == expected and expected["revision"]


def test_frozen_code_is_what_a_job_imports(tmp_path):
    """Also where the project is installed and the job begins in its checkout."""
    code = freeze(tmp_path / "code")
    profile = load_profile(["slurm=local_cluster"])
    setup = sbatch_parameters(profile, profile.resources({"devices": 1}), "name", code)["setup"]
    program = "import benchmark.runs, slurm.job; print(benchmark.runs.__file__); print(slurm.job.__file__)"
    script = "\n".join([*setup, f"{sys.executable} -c '{program}'"])
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(code / "benchmark" / "runs.py"), str(code / "slurm" / "job.py")]


def test_planning_status_and_cancelling_do_not_load_torch():
    program = ("import sys, slurm.launcher, slurm.submission, benchmark.status, benchmark.cancel; "
               "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_job_asks_for_itself_once_more(tmp_path):
    job = CellJob(tmp_path, "r", {"a": 1}, "command", "x_0")
    assert job.checkpoint().function == job
