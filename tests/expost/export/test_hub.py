"""A model goes up to the hub and comes back the same; what means harm there is refused like anywhere else."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import Result, run_here
from exported_model import TINY, exported, rewrite
from outside.hub_server import Hub, Repository, serving

from expost.export.config import CONFIG, PRIOR_FILE, VAE_FILE
from expost.export.hub import Place, parse
from expost.export.two_stage import TwoStage
from expost.store.safe import UnsafeError

pytest.importorskip("huggingface_hub")
NAME = "ours/digits"
ADDRESS = f"hf://{NAME}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs and the exported folder `model` are."""
    folder = tmp_path_factory.mktemp("runs")
    exported(folder, *TINY, "prior=gaussian")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, an empty cache and a token; as HF_ENDPOINT and HF_HUB_CACHE would set them before the first import."""
    from huggingface_hub import constants

    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("HF_TOKEN", "ours")
        monkeypatch.chdir(tmp_path)
        yield server


def put(hub: Hub, folder: Path, **extra: bytes) -> None:
    """A repository with the files of `folder`."""
    repository = hub.repositories.setdefault(NAME, Repository(private=False))
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    repository.commit(files | extra)


def export(root: Path, out: Path, *words: str) -> Result:
    return run_here(
        root,
        "stage=export",
        f"paths.root={root}",
        f"export.out={out}",
        "trainer.accelerator=cpu",
        *TINY,
        "prior=gaussian",
        *words,
    )


def test_up_and_back(root: Path, tmp_path: Path, hub: Hub) -> None:
    done = export(root, tmp_path / "model", f"export.hub={NAME}", "export.license=mit")
    assert done.code == 0, done.err
    assert f'TwoStage.load("{ADDRESS}") loads what is at {hub.url}/{NAME}' in done.out
    repository = hub.repositories[NAME]
    assert repository.private
    files = repository.commits[repository.newest]
    assert files.keys() == {".gitattributes", "README.md", CONFIG, VAE_FILE, PRIOR_FILE}
    card = files["README.md"].decode()
    assert "\nlicense: mit\n" in card and f'TwoStage.load("{ADDRESS}")' in card
    for name in (VAE_FILE, PRIOR_FILE):
        assert files[name] == (tmp_path / "model" / name).read_bytes()
    assert hub.blobs  # one of them went by LFS
    local, back = TwoStage.load(tmp_path / "model"), TwoStage.load(ADDRESS)
    assert all(map(torch.equal, local.vae.state_dict().values(), back.vae.state_dict().values()))
    assert all(map(torch.equal, local.prior.state_dict().values(), back.prior.state_dict().values()))
    torch.manual_seed(0)
    images = local.sample(5)
    torch.manual_seed(0)
    assert torch.equal(back.sample(5), images)


def loads(address: str = ADDRESS) -> bool:
    return TwoStage.load(address).sample(1).shape == (1, 1, 8, 8)


def refused(match: str, address: str = ADDRESS) -> None:
    with pytest.raises(UnsafeError, match=match) as caught:
        TwoStage.load(address)
    assert "\n" not in str(caught.value) and "/tmp" not in str(caught.value)


def test_only_what_is_needed_is_asked_for(root: Path, tmp_path: Path, hub: Hub) -> None:
    evil = {
        "evil.pkl": b"cos\nsystem\n",
        "pytorch_model.bin": b"x",
        "../canary": b"x",
        "modeling.py": b"open('canary')",
    }
    put(hub, root / "model", **evil)
    assert loads()
    got = {line.rsplit("/", 1)[1] for line in hub.asked if "/resolve/" in line}
    assert got == {CONFIG, VAE_FILE, PRIOR_FILE}
    assert not list(tmp_path.rglob("evil.pkl")) and not list(tmp_path.rglob("canary"))


def test_a_revision_is_what_it_was(root: Path, tmp_path: Path, hub: Hub) -> None:
    put(hub, root / "model")
    first = hub.repositories[NAME].newest
    hub.repositories[NAME].commit({"README.md": b"gone"})
    refused(f"{ADDRESS} has no {CONFIG}")
    assert loads(f"{ADDRESS}@{first}")
    refused("no such revision", f"{ADDRESS}@v2")


def test_hostile_repositories(root: Path, tmp_path: Path, hub: Hub) -> None:
    folder = Path(shutil.copytree(root / "model", tmp_path / "evil"))
    rewrite(folder, lambda content: content["net"].update(_target_="os.system"))
    put(hub, folder)
    refused("_target_=os.system is refused")
    hub.asked.clear()
    put(hub, root / "model", **{CONFIG: b"[" * 900_000})
    refused(f"{ADDRESS}/{CONFIG} is no JSON that may be read: nested deeper")
    put(hub, root / "model", **{CONFIG: b" " * (2**20 + 1)})
    refused(f"{ADDRESS}/{CONFIG} has 1,048,577 bytes")
    assert not [line for line in hub.asked if "safetensors" in line or "canary" in line]
    put(hub, root / "model", **{VAE_FILE: (root / "model" / VAE_FILE).read_bytes() + bytes(2**20)})
    refused(f"{ADDRESS}/{VAE_FILE} has .* bytes; at most")
    put(hub, root / "model", **{PRIOR_FILE: (root / "model" / PRIOR_FILE).read_bytes()[:-1]})
    refused(f"{ADDRESS}/{PRIOR_FILE} is truncated")
    put(hub, root / "model", **{VAE_FILE: b"/etc/passwd"})  # what git stores for a link
    refused(f"{ADDRESS}/{VAE_FILE} is truncated or damaged")


def test_the_cache_serves_without_a_network(root: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    put(hub, root / "model")
    assert loads()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert loads()
    refused("hf://ours/other is not in the cache, and the hub cannot be reached", "hf://ours/other")


def test_what_the_hub_refuses(root: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def one_line(*words: str) -> str:
        done = export(root, out, *words)
        assert done.code == 2 and len(done.lines) == 1, done.err
        assert "done" not in done.out  # refused before any work
        return done.err

    assert "export.hub=digits is no name on the hub: give export.hub=USER/NAME" in one_line("export.hub=digits")
    assert "export.license" in one_line(f"export.hub={NAME}", "export.license=M I T")
    put(hub, root / "model")
    assert "is there and public: give export.private=false" in one_line(f"export.hub={NAME}")
    monkeypatch.setenv("HF_TOKEN", "stranger")
    assert "the hub does not know your token: run `hf auth login`" in one_line("export.hub=ours/new")
    monkeypatch.delenv("HF_TOKEN")
    assert "you are not logged in to the hub: run `hf auth login`" in one_line("export.hub=ours/new")
    refused("hf://ours/none: there is no such model, or you may not see it", "hf://ours/none")
    hub.repositories[NAME].private = True
    refused("there is no such model, or you may not see it")
    hub.failing["/api/models"] = 503
    refused("the hub answers 503")
    assert not out.exists()


def test_an_upload_that_fails_leaves_the_folder(
    root: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "reader")
    done = export(root, tmp_path / "out", "export.hub=ours/new")
    assert done.code == 2 and len(done.lines) == 1
    assert "your token may not write there" in done.err and f"`hf upload ours/new {tmp_path / 'out'}`" in done.err
    assert TwoStage.load(tmp_path / "out").sample(1).shape == (1, 1, 8, 8)


def test_without_the_extra(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("pip install 'expost\\[hub\\]'")
    done = export(root, tmp_path / "out", f"export.hub={NAME}")
    assert done.code == 2 and "pip install 'expost[hub]'" in done.err and not (tmp_path / "out").exists()


def test_addresses() -> None:
    assert parse("hf://a/b") == Place("a/b") and parse("hf://a/b@v1.2") == Place("a/b", "v1.2")
    assert parse("hf://a/b@refs/pr/1").revision == "refs/pr/1"
    for bad in ("hf://", "hf://a", "hf://a/b/c", "hf://../b", "hf://a/..", "hf://a/b@", "hf://a/b@../x", "hf://a/b@/x"):
        with pytest.raises(UnsafeError, match="names no model on the hub"):
            parse(bad)
    for bad in ("hf://a/b c", "hf://a/b\n", "hf://a@b/c", "hf://-a/b", "hf://a/b@x..y", "hf:///etc/passwd"):
        with pytest.raises(UnsafeError, match="names no model on the hub"):
            parse(bad)
