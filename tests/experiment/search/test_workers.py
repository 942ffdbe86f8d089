"""Workers that are processes of their own, one of them killed: sqlite, journal, PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from harness.experiment.search.study import counted
from tests.experiment.search.small import small
from tests.paths import ROOT

pytestmark = pytest.mark.slow
TRIALS = 5


def postgres() -> Path | None:
    """Where the server's programs are, if they are installed."""
    found = [Path(p).parent for p in (shutil.which("initdb"),) if p]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in found if (p / "initdb").is_file() and (p / "pg_ctl").is_file()), None)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of a server of its own."""
    programs = postgres()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    pytest.importorskip("psycopg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = Path("/tmp") / f"harness-postgres-{os.getpid()}"  # sockets have short names
    place.mkdir(mode=0o700)
    # the server refuses root
    other: dict[str, Any] = {}
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres" if _exists("postgres") else "nobody")
        other = {"user": user.pw_uid, "group": user.pw_gid}
        os.chown(place, user.pw_uid, user.pw_gid)

    def do(*words: str) -> None:
        subprocess.run(
            [str(programs / words[0]), *words[1:]], check=True, cwd=place, timeout=120,
            stdout=subprocess.DEVNULL, **other,
        )  # fmt: skip

    data, options = str(place / "data"), f"-p {port} -k {place} -h 127.0.0.1"
    try:
        do("initdb", "-D", data, "-U", "searcher", "--auth=trust", "--no-sync")
        do("pg_ctl", "-D", data, "-o", options, "-l", str(place / "log"), "-w", "start")
        yield f"postgresql://searcher@127.0.0.1:{port}/postgres"
    finally:
        if (place / "data" / "postmaster.pid").exists():
            do("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(place)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def worker(folder: Path, storage: str) -> subprocess.Popen[str]:
    """`harness search` over MSKD, long enough an epoch that one can be killed within."""
    overrides = small(
        folder, "method=mskd", f"search.storage={storage}", f"search.trials={TRIALS}",
        "search.heartbeat=2", "train.epochs=4", "train.iterations=20", "threads=1",
        "search.failures=99", "search.sampler=random",
        "search.space.labeler.eps.low=0.55", "~search.space.neighbours",
        "~search.space.labeler.min_samples",
    )  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    with (folder / f"log-{time.monotonic()}").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", "search", *overrides], cwd=folder,
            env=environment, stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def opened(folder: Path, storage: str) -> BaseStorage | str:
    """The study's storage, for a look."""
    place = folder / "searches" / "s"
    if storage == "sqlite":
        return f"sqlite:///{place}/study.db"
    if storage == "journal":
        backend = optuna.storages.journal.JournalFileBackend(str(place / "study.journal"))
        return optuna.storages.JournalStorage(backend)
    return storage.replace("postgresql://", "postgresql+psycopg://")


def logs(folder: Path) -> str:
    """All that workers said."""
    return "\n".join(path.read_text() for path in folder.glob("log-*"))


def killed_in_the_middle(folder: Path, storage: str) -> None:
    """Two workers at once; the first is killed when a trial of its has a checkpoint."""
    first, second = worker(folder, storage), worker(folder, storage)
    trials = folder / "searches" / "s" / "trials"
    mine: optuna.trial.FrozenTrial | None = None
    deadline = time.monotonic() + 300
    try:
        while mine is None:
            assert time.monotonic() < deadline and first.poll() is None, logs(folder)
            time.sleep(0.1)
            if not list(trials.glob("*/checkpoint.pt")):
                continue
            study = optuna.load_study(storage=opened(folder, storage), study_name="s")
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                own = str(trial.user_attrs.get("worker", "")).endswith(f":{first.pid}")
                if own and (trials / f"trial-{trial.number:04d}" / "checkpoint.pt").exists():
                    mine = trial
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert second.wait(timeout=300) == 0, logs(folder)
    finally:
        for process in (first, second):
            if process.poll() is None:
                process.kill()
                process.wait()
    study = optuna.load_study(storage=opened(folder, storage), study_name="s")
    every = study.get_trials()
    assert every[mine.number].state == TrialState.FAIL
    (again,) = [t for t in every if t.user_attrs.get("resumes") == [mine.number]]
    assert again.params == mine.params
    assert again.user_attrs["worker"].endswith(f":{second.pid}")
    found = counted(study)
    assert len(found) == TRIALS and all(t.state.is_finished() for t in found)
    assert again.number in [t.number for t in found] and mine.number not in [
        t.number for t in found
    ]
    log = (trials / f"trial-{mine.number:04d}" / "log.txt").read_text()
    assert "going on with epoch" in log or "finished before" in log, "from its checkpoint"
    assert sum("default" in t.user_attrs for t in found) == 1
    workers = {t.user_attrs["worker"] for t in every}
    assert len(workers) == 2, "both had a part"
    assert (folder / "searches" / "s" / "preset.yaml").is_file()


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_two_workers_one_killed(tmp_path: Path, storage: str) -> None:
    killed_in_the_middle(tmp_path, storage)


def test_two_workers_one_killed_on_postgresql(tmp_path: Path, database: str) -> None:
    killed_in_the_middle(tmp_path, database)
