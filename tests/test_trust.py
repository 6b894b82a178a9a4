"""Opening somebody's checkpoint or config runs none of their code, and no place in the code could."""

from __future__ import annotations

import ast
import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import MACHINE, REPOSITORY, TINY, in_process

from mae_vlm.convert import native, trust
from mae_vlm.types import CHECKPOINT_KEY

OURS = sorted(file for room in ("mae_vlm", "data_prep", "tools") for file in (REPOSITORY / room).rglob("*.py"))
LOADS = ("load_checkpoint", "load_from_checkpoint", "resume_start")  # Lightning's, which leave pickle open unless told
NEVER = {
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "marshal.load",
        "marshal.loads",
        "shelve.open",
        "joblib.load",
        "dill.load",
        "dill.loads",
    ),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("eval", "exec", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "numpy.lib.format.read_array"),
    *("torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
}
JUDGED = {  # place, call: why it is safe there
    ("data_prep/engine.py", "pickle.loads"): "rows that one run's processes send each other through Ray",
    ("mae_vlm/pieces.py", "pickle.Unpickler"): "builds nothing but what an index of tensors is made of (its own tests)",
    ("mae_vlm/callbacks/checkpoint.py", "?.load_checkpoint"): "passes on what Lightning was told, which is tensors only",
    ("mae_vlm/learners/sharding.py", "self.checkpoint_io.load_checkpoint"): "likewise",
    ("mae_vlm/report/recorded.py", "yaml.load"): "with the safe loader, the one in C where there is one",
}


def dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id if isinstance(node, ast.Name) else "?"]))


def full_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, so that ``from torch import load`` hides nothing."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full(node: ast.expr, names: dict[str, str]) -> str:
    first, dot, rest = dotted(node).partition(".")
    return names.get(first, first) + dot + rest


def unsafe(text: str, place: str = "") -> list[str]:
    """Lines that could run code out of a file, each with what it calls."""
    tree = ast.parse(text)
    names = full_names(tree)
    told = [(made.lineno, full(base, names)) for made in ast.walk(tree) if isinstance(made, ast.ClassDef) for base in made.bases]
    told = [(line, name) for line, name in told if name in NEVER]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = full(call.func, names)
        said = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        loads = name == "torch.load" or name.rpartition(".")[2] in LOADS
        resumes = "ckpt_path" in {word.arg for word in call.keywords}
        wrong = ((loads or resumes) and said.get("weights_only") is not True) or name in NEVER or said.get("allow_pickle") is True
        wrong = wrong or said.get("trust_remote_code") is True or said.get("shell") is True
        if wrong:
            told.append((call.lineno, name))
    return [f"{place}:{line}: {name}" for line, name in told if (place, name) not in JUDGED]


def test_nothing_in_the_code_could_load_code_from_a_file():
    assert len(OURS) > 50
    assert [line for file in OURS for line in unsafe(file.read_text(), str(file.relative_to(REPOSITORY)))] == []


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch.load(f)",
        "from torch import load as read\nread(f, map_location='cpu')",
        "import torch\ntorch.load(f, weights_only=False)",
        "trainer.strategy.load_checkpoint(f)",
        "trainer.fit(model, ckpt_path=f)",
        "Learner.load_from_checkpoint(f)",
        "import pickle\npickle.loads(data)",
        "from pickle import load\nload(f)",
        "import pickle\nclass Mine(pickle.Unpickler): pass",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import yaml\nyaml.full_load(f)",
        "eval(text)",
        "import datasets\ndatasets.load_dataset(name, trust_remote_code=True)",
        "import subprocess\nsubprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds(line):
    assert len(unsafe(line)) == 1


# -- what a checkpoint's stored config may name


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A checkpoint of one step."""
    root = tmp_path_factory.mktemp("trained")
    words = [*TINY, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.default_root_dir", root]
    assert in_process("fit", *words) == 0
    return root / "default" / "version_0"


@pytest.fixture
def forged(run, tmp_path, monkeypatch):
    """Makes a checkpoint whose stored config, or more of it, was changed by somebody; ``evil`` is a package that leaves a file behind."""
    package = tmp_path / "evil"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pathlib import Path\nPath('harmed').touch()\nfrom mae_vlm.encoders.vit import Vit\nclass Thing(Vit): pass\n"
        "def run(*arguments, **named): Path('harmed').touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield lambda change, **more: _forge(run, tmp_path, change, more)
    sys.modules.pop("evil", None)


def _forge(run: Path, folder: Path, change, more) -> Path:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    config = yaml.safe_load(content[CHECKPOINT_KEY]["config"])
    text = change(config)
    content[CHECKPOINT_KEY]["config"] = text if isinstance(text, str) else yaml.safe_dump(config)
    torch.save(content | more, folder / "forged.ckpt")
    return folder / "forged.ckpt"


def init(config):
    return config["model"]["init_args"]


PLACES = {
    "the model": lambda config: config["model"].update(class_path="evil.Thing"),
    "the encoder": lambda config: init(config)["encoder"].update(class_path="evil.Thing"),
    "an objective": lambda config: init(config)["objectives"].update(more={"class_path": "evil.run", "init_args": {}}),
    "deep in a list": lambda config: config["data"].update(mixture=[{"path": "a", "more": [{"class_path": "evil.run"}]}]),
}
DISGUISES = {
    "the model, in short": lambda config: config.update(model="evil.Thing"),
    "the encoder, in short": lambda config: init(config).update(encoder="evil.Thing"),
    "an objective, in short": lambda config: init(config)["objectives"].update(pixels="evil.run"),
    "text that is read as YAML": lambda config: init(config).update(encoder='{"class_path": "evil.Thing"}'),
    "a module that ours imports": lambda config: init(config)["encoder"].update(class_path="mae_vlm.storage.os.system"),
    "a file of options": lambda config: init(config).update(encoder="more.yaml"),
}


@pytest.mark.parametrize("place, verb", zip(PLACES, ["fit", "predict", "validate", "test"], strict=True))
def test_a_foreign_class_is_named_and_not_imported(forged, capfd, place, verb):
    checkpoint = forged(PLACES[place])
    capfd.readouterr()
    assert in_process(verb, "--ckpt_path", checkpoint, *MACHINE) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert line.startswith(f"mae_vlm: error: {checkpoint} names the class evil.") and f"set {trust.VARIABLE}=evil" in line
    assert not Path("harmed").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("place", DISGUISES)
def test_a_disguised_class_is_not_imported(forged, capfd, place):
    Path("more.yaml").write_text("class_path: evil.Thing\n")
    checkpoint = forged(DISGUISES[place])
    capfd.readouterr()
    assert in_process("validate", "--ckpt_path", checkpoint, *MACHINE) != 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    print(line)  # pytest -rP shows what users read
    assert line.startswith("mae_vlm: error: ") and ("is not imported because a checkpoint names it" in line or "more.yaml" in line)
    assert not Path("harmed").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("how", ["variable", "command line", "config"])
def test_a_user_may_trust_a_class(forged, monkeypatch, how):
    checkpoint, words = forged(PLACES["the encoder"]), []
    if how == "variable":
        monkeypatch.setenv(trust.VARIABLE, "elsewhere, evil.")
    elif how == "command line":
        words = ["--model.encoder", "evil.Thing"]
    else:
        Path("mine.yaml").write_text(
            "model:\n  class_path: mae_vlm.learners.pretrain.Pretrainer\n  init_args: {encoder: {class_path: evil.Thing}}\n"
        )
        words = ["--config", "mine.yaml"]
    assert in_process("validate", "--ckpt_path", checkpoint, *words, *MACHINE, "--trainer.limit_val_batches", "1") == 0
    assert Path("harmed").exists()  # it was imported, as asked for


def test_the_path_of_a_checkpoint_vouches_for_nothing(forged):
    checkpoint = forged(PLACES["the encoder"])
    renamed = checkpoint.rename(checkpoint.with_name("evil.Thing.ckpt"))
    assert in_process("validate", "--ckpt_path", renamed, *MACHINE, "--trainer.default_root_dir", "evil.Thing") == 1
    assert not Path("harmed").exists()


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_hyper_parameters_that_name_code_are_left_alone(forged, verb, tmp_path):
    """As Lightning's own way of loading would have called them."""
    named = {"_instantiator": "evil.run", "_class_path": "evil.Thing", "class_path": "evil.Thing", "init_args": {}}
    checkpoint = forged(lambda config: None, hyper_parameters=named, datamodule_hyper_parameters=named)
    words = ["--trainer.limit_val_batches", "1", "--trainer.limit_predict_batches", "1", "--trainer.default_root_dir", tmp_path / "runs"]
    words += ["--out", tmp_path / "out"] if verb == "predict" else ["--trainer.max_steps", "2"] if verb == "fit" else []
    assert in_process(verb, "--ckpt_path", checkpoint, *MACHINE, *words) == 0
    assert native.load(checkpoint)
    assert not Path("harmed").exists() and "evil" not in sys.modules


def test_tags_of_python_objects_in_a_stored_config_are_refused(forged, capfd):
    checkpoint = forged(lambda config: "seed_everything: !!python/object/apply:evil.run []\n" + yaml.safe_dump(config))
    with pytest.raises(ValueError, match="its config or its weights are missing or unreadable"):
        native.read(checkpoint)
    assert in_process("validate", "--ckpt_path", checkpoint, *MACHINE) == 1
    assert not Path("harmed").exists()


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_objects_in_a_checkpoint_are_refused(forged, write):
    class Evil:
        def __reduce__(self):
            return Path.touch, (Path("harmed"),)

    with Path("objects.ckpt").open("wb") as file:
        write({"state_dict": {}, CHECKPOINT_KEY: Evil()}, file)
    for read in (native.read, native.load, native.step_of):
        with pytest.raises(ValueError, match="cannot be read as plain tensors"):
            read("objects.ckpt")
    assert not Path("harmed").exists()


def test_tags_of_python_objects_in_a_config_are_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed_everything: !!python/object/apply:os.mkdir [harmed]\n")
    assert in_process("fit", "--config", "mine.yaml", *TINY) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert "mine.yaml is not valid YAML" in line and not Path("harmed").exists()


def test_pickles_cannot_be_asked_for(run, tmp_path):
    """Whatever the option says, Lightning is told to load tensors only."""
    words = ["--ckpt_path", run, "--weights_only", "false", *MACHINE, "--trainer.limit_val_batches", "1"]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        load = torch.load
        patch.setattr(torch, "load", lambda *arguments, **named: seen.append(named["weights_only"]) or load(*arguments, **named))
        assert in_process("validate", *words) == 0
    assert seen and all(one is True for one in seen)
