"""What is imported when: commands answer before torch is, and meddlr knows the package whichever is imported first."""

import importlib
import json
import subprocess
import sys

import pytest

import meddlr_greedy
from meddlr_greedy import before_meddlr, meddlr_import
from meddlr_greedy.cli import COMMANDS
from tests.helpers.runs import ROOT


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


# ---- commands

REFUSING = """
import contextlib, importlib, io, json, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name in refused:
            raise AssertionError(f"{name} is imported")

refused, asked = json.load(sys.stdin)
sys.meta_path.insert(0, Refusing())
ends = []
for module, argv in asked:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(module).main(argv)
            ends.append(["no end", "", ""])
        except SystemExit as end:
            ends.append([end.code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(ends))
"""

READERS = ("cmrxrecon", "fastmri", "images", "ismrmrd", "maps", "phantom")
# Arguments, exit status, and the beginning of what is said.
ANSWERS = {
    "meddlr_greedy.cli": [
        ("--help", 0, "usage: meddlr-greedy COMMAND"),
        ("--version", 0, f"meddlr-greedy {meddlr_greedy.__version__}"),
        ("", 2, "error: the following arguments are required: COMMAND"),
        ("trian", 2, "error: argument COMMAND: invalid choice: 'trian'"),
        *((f"{command} --help", 0, f"usage: meddlr-greedy {command} ") for command in COMMANDS),
        *((f"prepare {reader} --help", 0, f"usage: meddlr-greedy prepare {reader} ") for reader in READERS),
    ],
    "meddlr_greedy.train_net": [
        ("--resum", 2, "error: unrecognized arguments: --resum; did you mean '--resume'?"),
        ("--config-file", 2, "error: argument --config-file: expected one argument"),
        ("--num-gpus x", 2, "error: argument --num-gpus: invalid int value: 'x'"),
        ("--num-gpus 0", 2, "error: --num-gpus: found 0, allowed 1 to"),
        ("--eval-only", 2, "error: --eval-only: use meddlr-greedy eval"),
    ],
    "meddlr_greedy.eval_net": [
        ("--weigths a", 2, "error: unrecognized arguments: --weigths; did you mean '--weights'?"),
        ("--weights", 2, "error: argument --weights: expected one argument"),
        ("--num-figures -1", 2, "error: --num-figures: found -1"),
    ],
    "meddlr_greedy.plan": [
        ("--memroy 1", 2, "error: unrecognized arguments: --memroy; did you mean '--memory'?"),
        ("--memory", 2, "error: argument --memory: expected one argument"),
        ("--memory 24", 2, "error: --memory: found '24', allowed is a number with a unit"),
    ],
    "meddlr_greedy.compare": [
        ("a b --output c --lables d", 2, "error: unrecognized arguments: --lables d; did you mean '--labels'?"),
        ("a b --output", 2, "error: argument --output: expected one argument"),
        ("a b", 2, "error: the following arguments are required: --output"),
        ("a b --output c --unit patient", 2, "error: argument --unit: invalid choice: 'patient'"),
    ],
    "meddlr_greedy.reconstruct": [
        ("a --output b --dicon", 2, "error: unrecognized arguments: --dicon; did you mean '--dicom'?"),
        ("a --output", 2, "error: argument --output: expected one argument"),
        ("--output b", 2, "error: the following arguments are required: INPUT"),
    ],
    "meddlr_greedy.prepare": [
        ("", 2, "error: the following arguments are required: {cmrxrecon,"),
        ("imagse a", 2, "error: argument {cmrxrecon,"),
        ("images a --output b --matrxi 1 1", 2, "error: unrecognized arguments: --matrxi"),
        ("images a --output", 2, "error: argument --output: expected one argument"),
        ("maps a --output b --compression pca", 2, "error: argument --compression: invalid choice: 'pca'"),
        ("--hlp", 2, "error: the following arguments are required: {cmrxrecon,"),
        *((f"{reader} --hlp", 2, "error: ") for reader in READERS),
        ("phantom --output b --coils 0", 2, "error: --coils: found 0, allowed at least 1"),
        ("phantom --output b --subjects 0", 2, "error: argument --subjects: found 0, allowed at least 1"),
        ("images a --output b --acquired-matrix 4 4", 2, "error: --acquired-matrix: found 4, allowed at least 8"),
        ("ismrmrd a --output b --tick 2.5", 2, "error: --tick: found 2.5, allowed only with --phases"),
        ("fastmri a --output b --maps 3", 2, "error: --maps: found 3, allowed 1 or 2"),
        ("cmrxrecon a --output b --subject-pattern P", 2, "error: --subject-pattern: found 'P', allowed"),
    ],
    "meddlr_greedy.show_zoo": [
        ("cine-phantom-8", 2, "error: NAME: no network 'zoo://cine-phantom-8'; did you mean 'zoo://cine-phantom-8x'?;"),
        ("a b", 2, "error: unrecognized arguments: b"),
    ],
    "projects.cine.demo": [
        ("--help", 0, "usage: python -m projects.cine.demo"),
        ("--ouput a", 2, "error: unrecognized arguments: --ouput"),
    ],
}


def check_answers(asked, refused):
    """Commands answer as they shall in a process that cannot import what is refused."""
    given = json.dumps([refused, [(module, line.split()) for module, line, *_ in asked]])
    done = subprocess.run([sys.executable, "-c", REFUSING], cwd=ROOT, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (module, line, status, said), (code, out, err) in zip(asked, json.loads(done.stdout), strict=True):
        shown, other = (err, out) if status else (out, err)
        assert (code, other) == (status, "") and shown.startswith(said), f"{module} {line}: {code} {out}{err}"
        assert not status or shown.count("\n") == 1


def test_commands_answer_before_torch_is_imported():
    check_answers([(module, *answer) for module, answers in ANSWERS.items() for answer in answers], ["torch", "meddlr"])


def test_prepare_answers_before_numpy_is_imported():
    asked = [("meddlr_greedy.prepare", *answer) for answer in ANSWERS["meddlr_greedy.prepare"]]
    asked += [("meddlr_greedy.cli", *answer) for answer in ANSWERS["meddlr_greedy.cli"] if "prepare" in answer[0]]
    check_answers(asked, ["torch", "meddlr", "numpy", "h5py"])


# ---- the package and meddlr


def test_import_of_the_package_alone_is_short():
    look = "import sys, meddlr_greedy; print({'torch', 'meddlr', 'numpy'} & {*sys.modules})"
    assert run("-c", look).stdout == "set()\n"


def check_registered(found):
    """What each module found registered is the same, and is ours."""
    for name, names in found.items():
        assert isinstance(names, dict), f"{name}: {names}"
        assert names == found["meddlr_greedy"], name
    ours = {"GreedyUnrolled", "CineUnrolledCNN", "SpatioTemporalResNet"}
    ours |= {"LeanLossComputer", "UniformKtMaskFunc", "TimeAverageNormalizer", "beat_train"}
    assert ours <= {name for names in found["meddlr_greedy"].values() for name in names}


def imported_first(*arguments):
    """What tests/helpers/imports.py prints; run as a file, since the package of the tests may import ours."""
    code = "import runpy; runpy.run_path('tests/helpers/imports.py', run_name='__main__')"
    done = run("-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_is_registered_whichever_module_is_imported_first(datasets):
    found = imported_first()
    assert {"meddlr_greedy.registry", "meddlr_greedy.modeling.contract", "meddlr_greedy.engine"} <= {*found}
    check_registered(found)


@pytest.mark.stress
def test_all_is_registered_whichever_of_all_modules_is_imported_first(datasets):
    found = imported_first("--all")
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")
        for path in (ROOT / "meddlr_greedy").rglob("*.py")
    }
    assert {*found} == files
    check_registered(found)


def test_network_can_be_had_from_the_package():
    from meddlr_greedy import PLUGIN, GreedyUnrolled
    from meddlr_greedy.modeling.greedy import wrapper

    assert GreedyUnrolled is wrapper.GreedyUnrolled and PLUGIN == "meddlr_greedy"
    with pytest.raises(ImportError):
        from meddlr_greedy import Nothing  # noqa: F401


# ---- when something is imported


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A module "waited_for", the module "registering" that is to come behind it, and the list of what was run."""
    ran = []
    for name in ("waited_for", "registering"):
        (tmp_path / f"{name}.py").write_text(f"import tests.test_startup\ntests.test_startup.told('{name}')\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys.modules[__name__], "told", ran.append, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(meddlr_import, "_MEDDLR", "waited_for")
    monkeypatch.setattr(meddlr_import, "_REGISTRATION", "registering")
    yield ran
    for name in ("waited_for", "registering"):
        sys.modules.pop(name, None)


def test_registers_once_what_it_waited_for_has_run(world):
    finders = [*sys.meta_path]
    meddlr_import.register_with_meddlr()
    assert world == [] and sys.meta_path[1:] == finders
    module = importlib.import_module("waited_for")
    assert world == ["waited_for", "registering"]
    # Nothing of it is left.
    assert sys.meta_path == finders and "exec_module" not in vars(module.__spec__.loader)
    importlib.reload(module)
    assert world == ["waited_for", "registering", "waited_for"]


def test_registers_at_once_what_is_there(world):
    importlib.import_module("waited_for")
    meddlr_import.register_with_meddlr()
    assert world == ["waited_for", "registering"]


def test_to_look_where_it_is_registers_nothing(world):
    meddlr_import.register_with_meddlr()
    for _ in range(2):
        assert importlib.util.find_spec("waited_for").origin.endswith("waited_for.py")
    assert world == [] and "waited_for" not in sys.modules
    importlib.import_module("waited_for")
    assert world == ["waited_for", "registering"]


def test_an_import_that_fails_can_be_tried_again(world, monkeypatch):
    def fail(name):
        raise RuntimeError(name)

    meddlr_import.register_with_meddlr()
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "told", fail)
        with pytest.raises(RuntimeError, match="waited_for"):
            importlib.import_module("waited_for")
    importlib.import_module("waited_for")
    assert world == ["waited_for", "registering"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_absence_of_meddlr_is_told_as_an_import_error(is_folder, world, tmp_path, monkeypatch):
    if is_folder:  # where meddlr's repository was cloned, for example
        (tmp_path / "not_installed" / "docs").mkdir(parents=True)
    monkeypatch.setattr(meddlr_import, "_MEDDLR", "not_installed")
    meddlr_import.register_with_meddlr()
    with pytest.raises(ImportError, match="meddlr is not installed"):
        importlib.import_module("not_installed")
    assert world == []


def test_names_are_given_back_where_meddlr_was_there_before(world, monkeypatch):
    given = []
    monkeypatch.setattr(before_meddlr, "give_back", lambda: given.append([*world]))
    importlib.import_module("waited_for")
    meddlr_import.register_with_meddlr()
    assert given == [["waited_for"]] and world == ["waited_for", "registering"]
