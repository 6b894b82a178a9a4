"""push to the hub: the real client against a stand-in server, what goes up, what never does, and every fault on the way."""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings

import pytest
import timm
import torch
import yaml
from hub_server import running
from hub_state import READER, TOKEN, point_at
from PIL import Image
from tiny_runs import DATA, MACHINE, REPOSITORY, TINY, content, in_new_process, in_process

from mae_vlm import load
from mae_vlm.convert import native
from mae_vlm.hub import attempts

TO = ["--repo", "org/name", "--license", "cc-by-nc-4.0"]
QUIET = ["--probes.pictures", "0"]
ALWAYS = {
    *("README.md", "config.json", "config.yaml", "curves.png", "mae_vlm.json", "model.safetensors"),
    *("pictures/attention.png", "pictures/features.png", "pictures/reconstruction.png"),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    words = [*TINY, *QUIET, "--data.mean", "[0.4,0.4,0.4]", "--trainer.max_steps", "2", "--ema.decay", "0.9"]
    assert in_process("fit", *words, "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


@pytest.fixture(scope="module")
def classifier(pretrained, tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    config = ["--config", REPOSITORY / "configs" / "finetune" / "quick_classify.yaml", *MACHINE, *DATA, *QUIET]
    length = ["--trainer.max_steps", "8", "--model.weights", pretrained]
    assert in_process("fit", *config, *length, "--trainer.default_root_dir", root) == 0
    return root / "quick_classify" / "version_0"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "PAUSES", (0.0, 0.0))
    with running() as hub:
        point_at(monkeypatch, hub, tmp_path / "hub_home")
        yield hub


@pytest.fixture
def refused(capsys):
    """Runs a push that must fail; gives the one line that is no warning."""

    def run(*words, code=1):
        capsys.readouterr()
        try:
            ended = in_process("push", *words)
        except SystemExit as end:
            ended = end.code
        assert ended == code
        told = capsys.readouterr()
        lines = [line for line in told.err.splitlines() if not line.startswith("mae_vlm: warning: ")]
        assert len(lines) == 1 and lines[0].startswith("mae_vlm: error: "), told.err
        assert TOKEN not in told.err + told.out and "Traceback" not in told.err
        print(lines[0])
        return lines[0].removeprefix("mae_vlm: error: ")

    return run


def wrote_nothing(hub):
    return not any(line.startswith(("PUT", "POST /api/models", "POST /api/repos")) for line in hub.requests)


def card_of(hub):
    from huggingface_hub import ModelCard

    return ModelCard(hub.repos["org/name"].files["README.md"].decode())


# -- what goes up


def test_timm_opens_what_was_pushed_by_its_name_with_the_same_features(hub, pretrained, capsys):
    assert in_process("push", pretrained, *TO) == 0
    assert "uploaded step 2 to " in capsys.readouterr().out
    repo = hub.repos["org/name"]
    assert repo.private and repo.messages == ["initial commit", "Step 2"], "one commit, and nobody else sees it"
    assert set(repo.files) == ALWAYS | {".gitattributes"}
    model = timm.create_model("hf-hub:org/name", pretrained=True).eval()
    encoder = native.read_encoder(pretrained)
    images_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = encoder.full(images_BCHW)
        assert torch.equal(model.forward_features(images_BCHW), ours.tokens_BTD)
        torch.testing.assert_close(model(images_BCHW), ours.patches_BND.mean(dim=1), rtol=0, atol=1e-6)
    assert timm.data.resolve_model_data_config(model)["mean"] == pytest.approx((0.4, 0.4, 0.4))


def test_load_reads_a_hub_name_and_no_path_asks_the_network(hub, pretrained):
    assert in_process("push", pretrained, *TO) == 0
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    assert torch.equal(load("hf://org/name").encode(images), load(pretrained).encode(images))
    commit = hub.repos["org/name"].head
    assert torch.equal(load(f"hf://org/name@{commit}").encode(images), load(pretrained).encode(images))
    asked = len(hub.requests)
    for mistyped in ("org/name", "hf:/org/name", "runs/org/name"):
        with pytest.raises(ValueError, match="no checkpoint there"):
            load(mistyped)
    assert len(hub.requests) == asked
    with pytest.raises(ValueError, match=r"the hub did not give config.yaml of hf://org/other: there is none, .*; check the name"):
        load("hf://org/other")
    with pytest.raises(ValueError, match="'name' is no name of a repository; write org/name"):
        load("hf://name")


def test_the_averaged_weights_go_up_where_they_are_wished(hub, pretrained):
    assert in_process("push", pretrained, *TO, "--weights", "ema") == 0
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    average, raw = load(pretrained, weights="ema").encode(images), load(pretrained).encode(images)
    assert torch.equal(load("hf://org/name").encode(images), average) and not torch.equal(average, raw)
    assert "averaged weights after 2 optimizer steps" in card_of(hub).text


def test_a_dry_run_lists_what_goes_up_and_asks_nobody(hub, pretrained, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert in_process("push", pretrained, *TO, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "to " + hub.url + "/org/name (private; made if it is not there), licence cc-by-nc-4.0:" in lines[0]
    assert {line.split()[0] for line in lines[1:-1]} == ALWAYS
    assert hub.requests == [] and "nothing yet (--dry-run)" in lines[-1]


def test_the_lists_are_what_goes_up_and_nothing_else_does(hub, pretrained, tmp_path, capsys):
    run = shutil.copytree(pretrained, tmp_path / "run", symlinks=True)
    for name in (".env", "notes.txt", "checkpoints/secret.txt", "pictures/private.jpg"):
        (run / name).write_text("mine")
    wished = ["--with-state", "--with-report"]
    assert in_process("push", run, *TO, *wished, "--dry-run") == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]}
    assert listed == ALWAYS | {"report.html", "checkpoints/last.ckpt", "checkpoints/manifest.json"}
    assert in_process("push", run, *TO, *wished) == 0
    assert set(hub.repos["org/name"].files) == listed | {".gitattributes"}
    assert in_process("push", run, *TO, "--no-pictures") == 0
    left = ALWAYS - {name for name in ALWAYS if name.startswith("pictures/")}
    assert set(hub.repos["org/name"].files) == left | {".gitattributes"}, "what an earlier push had beside it is gone"


def test_a_run_goes_on_from_the_state_that_was_pushed(hub, pretrained, tmp_path):
    assert in_process("push", pretrained, *TO, "--with-state") == 0
    for name, held in hub.repos["org/name"].files.items():
        (tmp_path / "downloaded" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "downloaded" / name).write_bytes(held)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # its checksum is known
        assert native.step_of(tmp_path / "downloaded") == 2
    words = ["--ckpt_path", tmp_path / "downloaded", "--trainer.max_steps", "3", *MACHINE, *QUIET, "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *words) == 0


def test_the_card_is_valid_and_tells_the_run(hub, pretrained):
    assert in_process("push", pretrained, *TO) == 0
    card = card_of(hub)
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "timm" and card.data.model_name == "name"
    results = {one.metric_name: one for one in card.data.eval_results}
    with (pretrained / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]
    assert results["val/loss"].metric_value == pytest.approx(losses[-1], abs=1e-5)
    assert results["val/loss"].dataset_name == "generated scenes" and "val/pixels/predict_zero" not in results, "a control is no result"
    facts = json.loads((pretrained / "facts.json").read_text())
    told = ["64 to train on, 12 to validate on", "| started from | random weights |", "| objectives | pixels |", facts["device"]]
    told += [f"{facts['seconds']:,.0f} s |", "| pictures seen | 32 |", "![reconstruction](pictures/reconstruction.png)"]
    told += ['timm.create_model("hf-hub:org/name", pretrained=True)', "](curves.png)", "| `val/loss` |"]
    assert [one for one in told if one not in card.text] == []
    with Image.open(io.BytesIO(hub.repos["org/name"].files["curves.png"])) as picture:
        picture.load()
        assert picture.width >= 560


def test_a_fine_tuned_run_hands_out_encoder_best_weights_and_where_it_started(hub, classifier, pretrained):
    assert in_process("push", classifier, *TO) == 0
    files = hub.repos["org/name"].files
    assert {"best/model.safetensors", "best/config.json"} < set(files)
    card = card_of(hub)
    assert f"| started from | {'/'.join(pretrained.parts[-2:])} |" in card.text and "`best/` holds the best" in card.text
    kinds = {one.metric_name: (one.task_type, one.metric_type) for one in card.data.eval_results}
    assert kinds["val/top1"] == ("image-classification", "accuracy")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(load("hf://org/name").encode(images), load(classifier).encode(images))


def test_a_run_that_starts_from_the_hub_says_so(hub, pretrained, tmp_path):
    assert in_process("push", pretrained, *TO) == 0
    config = ["--config", REPOSITORY / "configs" / "finetune" / "quick_classify.yaml", *MACHINE, *DATA, *QUIET]
    words = ["--trainer.max_steps", "1", "--model.weights", "hf://org/name", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *config, *words) == 0
    assert in_process("push", tmp_path / "quick_classify" / "version_0", "--repo", "org/next", "--license", "mit") == 0
    card = hub.repos["org/next"].files["README.md"].decode()
    assert "| started from | hf://org/name |" in card and "\nbase_model: org/name\n" in card


def test_a_whole_classifier_has_the_logits_of_the_head_in_timm(hub, classifier):
    assert in_process("push", classifier, *TO, "--classifier") == 0
    model = timm.create_model("hf-hub:org/name", pretrained=True).eval()
    encoder, (config, state) = native.read_encoder(classifier), native.read(classifier)
    head = {name.removeprefix("heads.classify."): value for name, value in state.items() if name.startswith("heads.classify.")}
    images_BCHW = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        mean_BD = encoder.full(images_BCHW).unnormed_BND.mean(dim=1)
        normed_BD = torch.nn.functional.layer_norm(mean_BD, mean_BD.shape[1:], head["norm.weight"], head["norm.bias"], 1e-6)
        logits_BL = normed_BD @ head["linear.weight"].T + head["linear.bias"]
        torch.testing.assert_close(model(images_BCHW), logits_BL, rtol=0, atol=1e-5)
    assert logits_BL.std() > 1e-3
    stated = json.loads(hub.repos["org/name"].files["config.json"])
    assert stated["label_names"] == config["model"]["init_args"]["heads"]["classify"]["init_args"]["classes"]
    assert stated["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="is a classifier; open it with timm"):
        load("hf://org/name")


# -- nothing secret


def test_no_token_is_in_any_file_that_went_up_or_on_the_screen(hub, pretrained, tmp_path, capfd):
    run = shutil.copytree(pretrained, tmp_path / "run", symlinks=True)
    assert in_process("push", run, *TO, "--with-state", "--with-report") == 0
    hub.fail("POST .*/commit", 500, times=99)
    (run / "facts.json").write_text("{}")
    assert in_process("push", run, *TO) == 1
    told = capfd.readouterr()
    assert TOKEN not in told.out + told.err
    leaks = [name for name, held in hub.repos["org/name"].files.items() if TOKEN.encode() in held]
    assert leaks == []


def test_a_config_loses_its_secrets_and_home_folders(monkeypatch, tmp_path):
    from mae_vlm.hub.secrecy import cleaned, has_secrets

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MY_SECRET", "abcd1234efgh")
    config = {
        "data": {"path": "s3://me:hidden@bucket/x", "api_key": "k", "list": [f"{tmp_path}/a", "https://h/x?sig=zzz&a=1"]},
        "model": {"mask_token": "learned", "note": "uses abcd1234efgh", "steps": 3},
    }
    assert cleaned(config) == {
        "data": {"path": "s3://***@bucket/x", "api_key": None, "list": ["~/a", "https://h/x?sig=***&a=1"]},
        "model": {"mask_token": "learned", "note": "uses ***", "steps": 3},
    }
    assert has_secrets(config) and not has_secrets(cleaned(config))
    assert not has_secrets({"path": f"{tmp_path}/a"})


@pytest.mark.filterwarnings("ignore:.*checksums are lost")
def test_a_secret_in_an_old_checkpoint_is_taken_out_of_the_config_and_keeps_the_state_here(hub, pretrained, tmp_path, refused):
    run = shutil.copytree(pretrained, tmp_path / "run", symlinks=True)
    stored = content(run)
    stored["mae_vlm"]["config"] += "note: {path: 's3://me:hidden@bucket/x', api_key: hidden}\n"
    torch.save(stored, run / "checkpoints" / "step_00000002.ckpt")
    (run / "checkpoints" / "manifest.json").unlink()
    assert "keeps a config with a password or token, which would be uploaded" in refused(run, *TO, "--with-state")
    assert in_process("push", run, *TO) == 0
    config = yaml.safe_load(hub.repos["org/name"].files["config.yaml"])
    assert config["note"] == {"path": "s3://***@bucket/x", "api_key": None}
    assert not any(b"hidden" in file for file in hub.repos["org/name"].files.values())


def test_a_file_that_holds_the_token_stops_everything(hub, pretrained, tmp_path, refused):
    run = shutil.copytree(pretrained, tmp_path / "run", symlinks=True)
    (run / "pictures" / "features_00000009.png").write_bytes(b"\x89PNG " + TOKEN.encode())
    said = refused(run, *TO)
    assert said.startswith("pictures/features.png holds a token or password of this session; nothing was uploaded")
    assert hub.requests == []


def test_help_waits_for_no_torch(tmp_path):
    ask = "import sys; from mae_vlm.cli import main\ntry: main(['push', '--help'])\nfinally: print('torch' in sys.modules)"
    answer = in_new_process(cwd=tmp_path, launcher=("-c", ask))
    assert "--license WORD" in answer.stdout and answer.stdout.endswith("False\n")


# -- the user's mistakes: one line, nothing written


@pytest.mark.parametrize(
    "words, said",
    [
        (["--repo", "org/name"], "the following arguments are required: --license"),
        (["--license", "mit"], "give one target: --repo org/name on the hub, or --to a folder"),
        (["--repo", "org/name", "--to", "x", "--license", "mit"], "give one target"),
        (["--repo", "name", "--license", "mit"], "'name' is no name of a repository; write org/name"),
        (["--repo", "org/na me", "--license", "mit"], "'org/na me' is no name of a repository"),
        (["--repo", "org/name", "--license", "apache2"], "licence 'apache2' is none that the hub knows; did you mean apache-2.0?"),
        (["--repo", "org/name", "--license", "MIT"], "licence 'MIT' is none that the hub knows; did you mean mit?"),
        (["--repo", "org/name", "--license", "mit", "--classifier"], "timm's classifier is one mae_vlm.heads.classify.Classify of classes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_on_the_command_line_is_told_in_a_line(hub, pretrained, refused, words, said):
    assert said in refused(pretrained, *words, code=2 if "required" in said else 1)
    assert hub.requests == []


def test_a_folder_that_is_no_run_or_has_no_whole_checkpoint_is_told(hub, pretrained, tmp_path, refused):
    assert "is not a folder; give a run's folder" in refused(tmp_path / "none", *TO)
    assert "holds no run" in refused(tmp_path, *TO)
    run = shutil.copytree(pretrained, tmp_path / "run", symlinks=True)
    for file in (run / "checkpoints").glob("step_*.ckpt"):
        file.write_bytes(file.read_bytes()[:-100])
    assert "checkpoints are damaged" in refused(run, *TO)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint there" in refused(run, *TO)
    assert hub.requests == []


def test_somebody_elses_repository_is_left_alone_unless_forced(hub, pretrained, refused):
    repo = hub.make("org/name", {"README.md": b"mine", "data.txt": b"mine"})
    said = refused(pretrained, *TO)
    assert "org/name holds 2 files that no push of this tool has put there, such as README.md; nothing was uploaded" in said
    assert wrote_nothing(hub) and len(repo.commits) == 1
    assert in_process("push", pretrained, *TO, "--force") == 0
    assert repo.files["data.txt"] == b"mine" and repo.files["README.md"] != b"mine"


def test_a_repository_of_an_earlier_push_is_updated_but_a_file_of_others_in_it_is_not(hub, pretrained, refused):
    assert in_process("push", pretrained, *TO, "--no-pictures") == 0
    repo = hub.repos["org/name"]
    repo.commit({**repo.files, "notes.md": b"mine", "report.html": b"mine"}, "by hand")
    assert in_process("push", pretrained, *TO) == 0
    assert repo.files["notes.md"] == b"mine" and set(repo.files) > ALWAYS
    said = refused(pretrained, *TO, "--with-report")
    assert "org/name holds 1 file that this push would replace, such as report.html" in said
    assert repo.files["report.html"] == b"mine"


def test_a_public_repository_is_not_written_to_by_accident(hub, pretrained, refused):
    hub.make("org/name", private=False)
    assert "org/name is public, and so would be these files; add --public" in refused(pretrained, *TO)
    assert wrote_nothing(hub)
    assert in_process("push", pretrained, *TO, "--public") == 0
    assert in_process("push", pretrained, "--repo", "org/new", "--license", "mit", "--public") == 0
    assert not hub.repos["org/new"].private


@pytest.mark.parametrize(
    "token, repo, said",
    [
        (None, "org/name", "no token for the hub; log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong_and_long", "org/name", "the token is missing or not valid (401)"),
        (READER, "org/name", "no permission to write there (403)"),
        (TOKEN, "others/name", "no permission to write there (403)"),
    ],
)
def test_no_permission_is_one_line_and_no_repository(hub, pretrained, refused, monkeypatch, token, repo, said):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    line = refused(pretrained, "--repo", repo, "--license", "mit")
    assert line.startswith(f"upload to {repo} failed: {said}") and hub.repos == {}
    assert str(token) not in line


def test_check_tells_before_a_run_whether_the_target_would_take_it(hub, refused, tmp_path):
    assert in_process("push", tmp_path / "not_there_yet", *TO, "--check") == 0
    hub.make("org/name", {"x.txt": b"mine"})
    assert "org/name holds 1 file" in refused(tmp_path, *TO, "--check")
    assert wrote_nothing(hub)


@pytest.mark.slow
def test_the_verb_as_a_user_starts_it_speaks_to_the_hub_that_the_environment_names(hub, pretrained, tmp_path):
    done = in_new_process("push", pretrained, *TO, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("uploaded step 2 to ") and done.stdout.count("\n") == 1 and done.stderr == ""
    assert yaml.safe_load(hub.repos["org/name"].files["config.yaml"])["model"]["init_args"]["encoder"]["init_args"]["width"] == 32
