"""The real clients against the local Hub, and the fixtures of conftest.py."""

import io
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REPO = "org/name"


@pytest.fixture
def api(hub):
    return HfApi()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "upload"
    (folder / "plots").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "plots" / "loss.png").write_bytes(b"\x89PNG")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def read(repo_id, filename, **options):
    return Path(hf_hub_download(repo_id, filename, **options)).read_bytes()


# Repositories, commits, revisions


def test_whoami_and_repositories(api, hub):
    assert api.whoami()["name"] == "tester"
    url = api.create_repo(REPO)
    assert (url.repo_id, url.repo_type) == (REPO, "model")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True) == url
    assert api.create_repo(REPO, repo_type="dataset").repo_type == "dataset"
    assert api.create_repo("alone").repo_id == "tester/alone"
    assert sorted(hub.repos) == [("dataset", REPO), ("model", REPO), ("model", "tester/alone")]
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    assert api.repo_exists(REPO, repo_type="dataset")


def test_each_test_starts_with_an_empty_hub_and_cache(hub):
    assert hub.repos == {}
    assert hub.requests == []
    assert not list(Path(os.environ["HF_HOME"]).glob("hub/models--*"))


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_folder_goes_up_and_comes_down(api, hub, folder, tmp_path, repo_type):
    api.create_repo(REPO, repo_type=repo_type)
    api.upload_folder(repo_id=REPO, repo_type=repo_type, folder_path=folder)
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    assert hub.files(REPO, repo_type=repo_type) == sent
    assert [method for method, path in hub.requests if path.startswith("/lfs/")] == ["PUT"]
    assert read(REPO, "plots/loss.png", repo_type=repo_type) == b"\x89PNG"
    copy = Path(snapshot_download(REPO, repo_type=repo_type, local_dir=tmp_path / "copy"))
    assert {path: (copy / path).read_bytes() for path in sent} == sent


def test_the_same_content_makes_no_commit_and_no_second_upload(api, hub, folder):
    api.create_repo(REPO)
    api.create_repo("org/copy")
    first = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first.oid
    api.upload_folder(repo_id="org/copy", folder_path=folder)
    assert hub.files("org/copy") == hub.files(REPO)
    assert sum(method == "PUT" for method, _ in hub.requests) == 1


def test_older_commits_branches_and_tags_stay_loadable(api, hub):
    api.create_repo(REPO)
    add = {"path_in_repo": "a.txt", "repo_id": REPO}
    first = api.upload_file(path_or_fileobj=b"1", **add).oid
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="next/step")
    second = api.upload_file(path_or_fileobj=b"2", **add).oid
    third = api.upload_file(path_or_fileobj=b"3", revision="next/step", **add).oid
    assert len({first, second, third}) == 3
    wanted = {"main": b"2", "v1": b"1", "next/step": b"3", first: b"1", second: b"2"}
    assert {revision: read(REPO, "a.txt", revision=revision) for revision in wanted} == wanted
    assert {revision: hub.files(REPO, revision)["a.txt"] for revision in wanted} == wanted
    assert api.model_info(REPO, revision="v1").sha == first
    assert [commit.commit_id for commit in api.list_repo_commits(REPO)][:2] == [second, first]
    assert hub.commits(REPO)[:2] == [second, first]
    refs = api.list_repo_refs(REPO)
    assert {branch.name: branch.target_commit for branch in refs.branches} == {
        "main": second,
        "next/step": third,
    }
    assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1": first}
    api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v1")


def test_deletions_and_a_parent_that_moved(api, hub):
    start = hub.add(REPO, {"a": b"1", "old/b": b"2", "old/c": b"3", "d": b"4"})
    operations = [CommitOperationDelete("a"), CommitOperationDelete("old/"), CommitOperationAdd("e", b"5")]
    api.create_commit(REPO, operations, commit_message="tidy", parent_commit=start)
    assert hub.files(REPO) == {"d": b"4", "e": b"5"}
    assert set(hub.files(REPO, start)) == {"a", "d", "old/b", "old/c"}
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, [CommitOperationDelete("d")], commit_message="late", parent_commit=start)
    with pytest.raises(EntryNotFoundError):
        api.delete_file("never", REPO)


def test_tree_paths_and_info(api, hub):
    hub.add(REPO, {"a": b"1", "plots/b.png": b"22", "plots/deep/c.png": b"333", "m.safetensors": b"4444"})
    assert [entry.path for entry in api.list_repo_tree(REPO)] == ["a", "m.safetensors", "plots"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "plots")] == ["plots/b.png", "plots/deep"]
    assert len(list(api.list_repo_tree(REPO, recursive=True))) == 6
    found = {entry.path: entry for entry in api.get_paths_info(REPO, ["a", "plots", "m.safetensors", "no"])}
    assert set(found) == {"a", "plots", "m.safetensors"}
    assert found["m.safetensors"].lfs.size == 4
    info = api.model_info(REPO, files_metadata=True)
    assert {file.rfilename: file.size for file in info.siblings}["plots/deep/c.png"] == 3
    assert api.list_repo_files(REPO) == ["a", "m.safetensors", "plots/b.png", "plots/deep/c.png"]


# What a client sees when something is missing or wrong


def test_missing_things_raise_the_clients_own_errors(hub):
    hub.add(REPO, {"a": b"1"})
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "b")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "a", revision="v9")
    for missing in ("org/other", "bert-base-uncased"):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(missing, "a")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download(REPO, repo_type="dataset")


def test_a_wrong_token_cannot_write_nor_read_what_is_private(hub):
    hub.add("org/secret", {"a": b"1"}, private=True)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("org/secret", "a", token="hf_other")
    assert read("org/secret", "a") == b"1"
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token="hf_other").create_repo(REPO)


def test_injected_answers(api, hub):
    hub.add(REPO, {"a": b"1"})
    hub.fail("/commit/", 403, b'{"error": "read only"}')
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        api.upload_file(path_or_fileobj=b"2", path_in_repo="a", repo_id=REPO)
    hub.fail("/commit/", 500, b"down")
    with pytest.raises(HfHubHTTPError, match="500"):
        api.upload_file(path_or_fileobj=b"2", path_in_repo="a", repo_id=REPO)
    hub.fail("/preupload/", 429, Retry_After="0")  # tried again by the client, after a second
    hub.fail("/commit/", 429)
    with pytest.raises(HfHubHTTPError, match="429"):
        api.upload_file(path_or_fileobj=b"2", path_in_repo="a", repo_id=REPO)
    api.upload_file(path_or_fileobj=b"2", path_in_repo="a", repo_id=REPO)
    assert hub.files(REPO) == {"a": b"2"}
    hub.fail("/resolve/", 403)
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "a")


def test_a_download_that_breaks_off_is_resumed(hub):
    hub.add(REPO, {"weights.bin": bytes(range(256)) * 100})
    hub.cut(r"weights\.bin", keep=5_000)
    assert read(REPO, "weights.bin") == hub.files(REPO)["weights.bin"]
    assert [method for method, _ in hub.requests] == ["HEAD", "GET", "GET"]


def test_ranges(hub):
    hub.add(REPO, {"a.bin": bytes(range(100))})
    fs = HfFileSystem()
    with fs.open(f"{REPO}/a.bin", block_size=10) as file:
        file.seek(95)
        assert file.read() == bytes(range(95, 100))

    def fetch(span):
        request = urllib.request.Request(f"{hub.url}/{REPO}/resolve/main/a.bin", headers={"Range": span})
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Range"], answer.read()

    assert fetch("bytes=10-12") == (206, "bytes 10-12/100", bytes([10, 11, 12]))
    assert fetch("bytes=-2") == (206, "bytes 98-99/100", bytes([98, 99]))
    assert fetch("bytes=98-") == (206, "bytes 98-99/100", bytes([98, 99]))
    with pytest.raises(urllib.error.HTTPError, match="416"):
        fetch("bytes=100-")


@pytest.mark.parametrize("address", ["https://example.org/", "http://example.org/file.zip"])
def test_no_other_address_can_be_reached(hub, address):
    with pytest.raises(OSError, match="403"):
        urllib.request.urlopen(address)
    assert len(hub.requests) == 1
    assert "example.org" in hub.requests[0][1]


# Cards, models, adapters, data sets


def test_cards_are_pushed_and_loaded(api, hub):
    api.create_repo(REPO)
    ModelCard("---\nlicense: mit\npipeline_tag: image-classification\n---\n# Name\n").push_to_hub(REPO)
    card = ModelCard.load(REPO)
    assert card.data.license == "mit"
    assert card.text.strip() == "# Name"
    assert api.model_info(REPO).pipeline_tag == "image-classification"


def tiny_vit():
    from transformers import ViTConfig, ViTModel

    return ViTModel(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
        )
    ).eval()


def test_a_model_is_pushed_and_loaded_by_name(hub, run_python):
    import torch
    from transformers import AutoModel

    model = tiny_vit()
    model.push_to_hub(REPO)
    assert set(hub.files(REPO)) == {"README.md", "config.json", "model.safetensors"}
    first = hub.commits(REPO)[0]
    pixels = torch.ones(1, 3, 8, 8)
    expected = model(pixels).last_hidden_state
    with torch.no_grad():
        model.layernorm.weight.mul_(2)
    model.push_to_hub(REPO)
    loaded = AutoModel.from_pretrained(REPO, revision=first).eval()
    torch.testing.assert_close(loaded(pixels).last_hidden_state, expected)
    printed = run_python(
        """
        import sys
        from transformers import AutoModel
        print(float(AutoModel.from_pretrained(sys.argv[1]).layernorm.weight.sum()))
        """,
        REPO,
    )
    assert float(printed) == 16.0


def test_the_trainer_pushes(hub, tmp_path):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path), push_to_hub=True, hub_model_id=REPO, use_cpu=True, report_to="none"
    )
    Trainer(tiny_vit(), arguments).push_to_hub()
    assert {"config.json", "model.safetensors", "README.md", "training_args.bin"} <= set(hub.files(REPO))


def test_an_adapter_is_pushed_and_loaded_by_name(hub):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModel

    tiny_vit().push_to_hub("org/base")
    base = AutoModel.from_pretrained("org/base")
    adapted = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.eval().push_to_hub("org/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.files("org/adapter"))
    pixels = torch.ones(1, 3, 8, 8)
    expected = adapted(pixels).last_hidden_state
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained("org/base"), "org/adapter").eval()
    torch.testing.assert_close(loaded(pixels).last_hidden_state, expected)
    by_name = AutoModel.from_pretrained("org/adapter").eval()
    torch.testing.assert_close(by_name(pixels).last_hidden_state, expected)


@pytest.fixture
def pictures():
    from datasets import Dataset, DatasetDict, Features, Image, Value
    from PIL import Image as PIL

    def encoded(value):
        buffer = io.BytesIO()
        PIL.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    features = Features({"image": Image(), "latitude": Value("float64")})
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {"image": [encoded(v) for v in values], "latitude": np.float64(values)}, features=features
            )
            for name, values in {"train": [10, 20, 30], "test": [40]}.items()
        }
    )


def test_a_data_set_is_pushed_loaded_and_streamed(hub, pictures):
    from datasets import load_dataset

    pictures.push_to_hub(REPO)
    parquet = {"data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"}
    assert set(hub.files(REPO, repo_type="dataset")) == {"README.md", *parquet}
    loaded = load_dataset(REPO)
    assert {name: len(split) for name, split in loaded.items()} == {"train": 3, "test": 1}
    assert loaded["train"][1]["image"].getpixel((0, 0)) == (20, 0, 0)
    assert loaded["train"].features["latitude"].dtype == "float64"
    streamed = list(load_dataset(REPO, split="train", streaming=True))
    assert [row["latitude"] for row in streamed] == [10.0, 20.0, 30.0]
    assert streamed[2]["image"].getpixel((0, 0)) == (30, 0, 0)


def test_a_data_set_is_replaced_and_its_older_revision_loads(hub, pictures):
    from datasets import load_dataset

    pictures.push_to_hub(REPO)
    first = hub.commits(REPO, repo_type="dataset")[0]
    pictures["train"] = pictures["train"].select([0])
    pictures.push_to_hub(REPO)
    assert len(load_dataset(REPO, split="train")) == 1
    assert len(load_dataset(REPO, split="train", revision=first)) == 3


# The other fixtures


def test_run_python(run_python, tmp_path):
    code = "import os, sys; print(os.getcwd(), *sys.argv[1:])"
    assert run_python(code, "a", 1, cwd=tmp_path) == f"{tmp_path} a 1\n"
    assert run_python("import geohf, os; print(os.environ['X'])", cwd=tmp_path, env={"X": "y"}) == "y\n"
    done = run_python("raise SystemExit('no')", check=False)
    assert (done.returncode, done.stderr) == (1, "no\n")
    with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
        run_python("1 / 0")


def test_shared_data(shared_data):
    with pytest.raises(pytest.skip.Exception, match="no real data 'nowhere'"):
        shared_data("nowhere")
