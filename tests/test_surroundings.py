"""The real program in the surroundings that users have: closed streams, other letters, other folders, no disk to write."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Project

from xconsensus.jobs.job import Job

PROGRAM = [sys.executable, "-m", "xconsensus"]
FREE = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "KMP_", "OMP_WAIT"))}


def python(code: str, environment: dict[str, str] = FREE, **given: object) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, **given)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout + done.stderr)


def test_the_module_is_the_program() -> None:
    run = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("xconsensus ")


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lose_no_work(tmp_path: Path, redirect: str) -> None:
    code = (
        "from pathlib import Path; import os, sys\n"
        "from xconsensus.jobs.streams import make_usable\nmake_usable()\n"
        "first = open('made', 'w'); assert first.fileno() > 2\n"
        "print('out'); print('err', file=sys.stderr); sys.stdout.flush(); os.write(2, b'from C')\nfirst.write('done')\n"
    )
    (tmp_path / "code.py").write_text(code)
    subprocess.run(["sh", "-c", f"'{sys.executable}' code.py {redirect}"], cwd=tmp_path, check=True)
    assert (tmp_path / "made").read_text() == "done"
    subprocess.run(["sh", "-c", f"'{sys.executable}' -m xconsensus --help {redirect}"], cwd=tmp_path, check=True)


def test_letters_that_a_terminal_cannot_show_are_escaped() -> None:
    code = "from xconsensus.jobs.streams import make_usable\nmake_usable()\nprint('gr\\u00f6\\u00dfe')"
    assert python(code, {**FREE, "PYTHONIOENCODING": "ascii"}) == "gr\\xf6\\xdfe\n"
    assert python(code, {**FREE, "PYTHONIOENCODING": "utf-8"}) == "größe\n"


def test_a_locale_without_the_letters_of_a_name_is_one_line(photographs: Project) -> None:
    (path,) = (photographs.folder / "conf/committee").glob("*.yaml")
    path.write_text(path.read_text("utf-8").replace("second:", "größe:"), "utf-8")
    words = ["status", *photographs.arguments]
    environment = {**FREE, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, env=environment)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "encoding ascii" in run.stderr


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0", "hydra.sweep.dir=sweep")])
def test_relative_folders_stay_where_hydra_changes_the_folder(
    photographs: Project, monkeypatch: pytest.MonkeyPatch, sweep: tuple[str, ...]
) -> None:
    monkeypatch.chdir(photographs.folder)
    given = (f"output_dir={photographs.outputs.name}", "hydra.job.chdir=true", "hydra.run.dir=runs/first")
    photographs.done("finetune", *given, *sweep)
    assert list(photographs.outputs.rglob("predictions/test/first.safetensors"))
    assert not list(photographs.folder.glob("runs/*/*"))
    assert bool(sweep) == (photographs.folder / "sweep/0/outcome.json").is_file()
    assert Path.cwd() == photographs.folder


def test_a_notebook_s_backend_is_not_asked_for(tmp_path: Path) -> None:
    words = ["xconsensus", "plot", "source=published", "figure=table2", f"output_dir={tmp_path}"]
    code = f"import sys\nsys.argv = {words!r}\n"
    code += "from xconsensus.cli import main\nmain()\nimport matplotlib\nprint(matplotlib.get_backend())"
    environment = {**FREE, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    assert python(code, environment).splitlines()[-1].lower() == "agg"


# --- threads that wait for each other ---


def test_a_job_in_another_process_sets_the_waiting_of_threads_before_torch() -> None:
    code = f"import pickle, sys, os\npickle.loads({pickle.dumps(Job('explain'))!r})\nimport torch\n"
    code += "print(os.environ['GOMP_SPINCOUNT'], os.environ['KMP_BLOCKTIME'])"
    said = python(code, {**FREE, "OMP_DISPLAY_ENV": "verbose"})
    assert said.splitlines()[0] == "1000 0" or "1000 0" in said
    if "GOMP_" in said:  # GNU's runtime says itself what it goes by
        assert "GOMP_SPINCOUNT = '1000'" in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, ("7", "0")),
        ({"KMP_BLOCKTIME": "200"}, ("1000", "200")),
        ({"OMP_WAIT_POLICY": "active"}, (None, None)),
    ],
)
def test_what_the_user_says_of_waiting_threads_holds(given: dict[str, str], expected: tuple[str | None, ...]) -> None:
    code = "import os, xconsensus; print((os.environ.get('GOMP_SPINCOUNT'), os.environ.get('KMP_BLOCKTIME')))"
    assert python(code, FREE | given) == f"{expected}\n"
