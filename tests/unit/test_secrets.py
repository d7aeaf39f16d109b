"""Secrets are in files of their own, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core import errors
from supervisor.core.model import Params
from supervisor.store import secrets
from supervisor.store.secrets import Secrets


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "key")


def test_a_literal_is_put_away_and_a_reference_stays(directory: Path) -> None:
    given = {"token": "öh 123\n", "other": "env:TOKEN", "third": "file:/run/secrets/x", "plain": "word", "n": 3}
    with Secrets(directory).kept(given, {"token", "other", "third", "n"}) as kept:
        [name] = files(directory)
        assert kept == {**given, "token": f"secret:{name}"}
    assert (directory / name).read_text() == "öh 123\n"
    assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert secrets.shown(kept)["token"] == secrets.HIDDEN
    assert secrets.shown(kept)["other"] == "env:TOKEN"
    assert secrets.has_secrets(kept)
    assert secrets.shown(given) is given
    assert not secrets.has_secrets(given)


def test_the_same_secret_has_one_name_here_and_another_elsewhere(directory: Path, tmp_path: Path) -> None:
    with Secrets(directory).kept({"a": "x", "b": "x", "c": "y"}, {"a", "b", "c"}) as first:
        assert first["a"] == first["b"] != first["c"]
    with Secrets(directory).kept({"a": "x"}, {"a"}) as again:
        assert again["a"] == first["a"]
    with Secrets(tmp_path / "elsewhere").kept({"a": "x"}, {"a"}) as elsewhere:
        assert elsewhere["a"] != first["a"]


@pytest.mark.anyio
async def test_what_no_bot_has_is_swept_but_not_what_is_in_hand(directory: Path) -> None:
    kept = Secrets(directory)
    remembered: list[Params] = []

    async def read() -> list[Params]:
        return remembered

    with kept.kept({"a": "needed"}, {"a"}) as needed, kept.kept({"a": "new"}, {"a"}):
        (directory / "litter.new").write_text("of a crash")
        remembered.append(needed)
        await kept.sweep(read)
        assert len(files(directory)) == 2
    await kept.sweep(read)
    assert files(directory) == [needed["a"].removeprefix("secret:")]
    remembered.clear()
    await kept.sweep(read)
    assert files(directory) == []
    assert (directory / "key").exists()


@pytest.mark.anyio
async def test_a_bot_that_is_made_during_a_sweep_keeps_its_secret(directory: Path) -> None:
    """Also where the bot that is being forgotten had the same one."""
    kept = Secrets(directory)
    with kept.kept({"a": "x"}, {"a"}):
        pass

    async def read_before_another_is_made() -> list[Params]:
        with kept.kept({"a": "x", "b": "y"}, {"a", "b"}):
            pass
        return []

    await kept.sweep(read_before_another_is_made)
    assert len(files(directory)) == 2


@pytest.mark.parametrize("value", [f"secret:{'0' * 32}", "\ud800"])
def test_what_is_refused(directory: Path, value: str) -> None:
    with pytest.raises(errors.BadParams) as refused, Secrets(directory).kept({"token": value}, {"token"}):
        pass
    assert refused.value.errors[0]["loc"] == ["body", "params", "token"]
    assert files(directory) == []


def test_a_directory_that_cannot_be_written(directory: Path) -> None:
    kept = Secrets(directory)
    (directory / "key").unlink()
    directory.rmdir()
    with pytest.raises(errors.Unavailable, match="cannot be stored now"), kept.kept({"token": "x"}, {"token"}):
        pass
