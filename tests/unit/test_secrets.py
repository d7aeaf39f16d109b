"""Where secret parameters are, and where they are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from botproc import secrets as in_the_bot
from supervisor import errors, secrets
from supervisor.secrets import SHOWN, Secrets

TOKEN = "s3cret with ünïcode"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def test_a_secret_is_in_a_file_of_its_own_and_a_reference_in_its_place(directory: Path) -> None:
    given = {"token": TOKEN, "symbol": "BTC", "depth": 3}
    kept = Secrets(directory).keep(given, {"token"})
    assert given["token"] == TOKEN, "what the caller holds is not changed"
    assert {**kept, "token": TOKEN} == given
    [file] = directory.iterdir()
    assert kept["token"] == f"secret:{file.name}"
    assert file.read_bytes() == TOKEN.encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_bot_gets_what_the_caller_gave(directory: Path) -> None:
    kept = Secrets(directory).keep({"token": TOKEN, "plain": "x"}, {"token"})
    assert in_the_bot.resolve(kept, str(directory)) == {"token": TOKEN, "plain": "x"}


def test_equal_secrets_of_two_bots_are_two_files(directory: Path) -> None:
    ours = Secrets(directory)
    one, two = (ours.keep({"token": TOKEN}, {"token"}) for _ in range(2))
    assert one != two
    ours.forget(one)
    assert in_the_bot.resolve(two, str(directory)) == {"token": TOKEN}


@pytest.mark.parametrize("reference", ["env:TOKEN", "file:/run/secrets/token"])
def test_a_reference_stays_and_is_shown(directory: Path, reference: str) -> None:
    given = {"token": reference}
    assert Secrets(directory).keep(given, {"token"}) is given
    assert secrets.shown(given) is given
    assert not list(directory.iterdir())


@pytest.mark.parametrize("literal", ["env:", "env:1x", "file:relative", "secret:short", "", "env:A\nB"])
def test_what_only_looks_like_a_reference_is_a_secret(directory: Path, literal: str) -> None:
    kept = Secrets(directory).keep({"token": literal}, {"token"})
    [file] = directory.iterdir()
    assert kept == {"token": f"secret:{file.name}"}
    assert file.read_text() == literal


@pytest.mark.parametrize("name", ["token", "symbol"])
def test_nobody_gets_the_secret_of_another_bot_by_its_name(directory: Path, name: str) -> None:
    ours = Secrets(directory)
    other = ours.keep({"token": TOKEN}, {"token"})
    with pytest.raises(errors.BadParams, match=f"{name}: it refers to what the supervisor keeps") as refused:
        ours.keep({"token": "mine", name: other["token"]}, {"token"})
    assert refused.value.errors[0]["loc"] == ["body", "params", name]
    assert len(list(directory.iterdir())) == 1


def test_a_secret_that_cannot_be_written_is_refused(directory: Path) -> None:
    with pytest.raises(errors.BadParams, match="token: it has characters that are no Unicode text"):
        Secrets(directory).keep({"a": "1", "token": "\ud800"}, {"a", "token"})
    assert not list(directory.iterdir())


def test_no_secret_and_no_null_costs_a_file(directory: Path) -> None:
    given = {"token": None, "n": 1}
    assert Secrets(directory).keep(given, {"token"}) is given
    assert not list(directory.iterdir())


def test_what_is_kept_is_not_shown() -> None:
    params = {"token": "secret:" + 32 * "a", "other": "env:X", "symbol": "secret:no", "n": 1}
    assert secrets.shown(params) == {"token": SHOWN, "other": "env:X", "symbol": "secret:no", "n": 1}
    plain = {"symbol": "BTC"}
    assert secrets.shown(plain) is plain


def test_what_is_forgotten_is_deleted_and_may_be_forgotten_again(directory: Path) -> None:
    ours = Secrets(directory)
    kept = ours.keep({"a": "1", "b": "2", "c": "env:C"}, {"a", "b", "c"})
    ours.forget(kept)
    ours.forget(kept)
    assert not list(directory.iterdir())


def test_a_sweep_leaves_what_bots_have(directory: Path) -> None:
    before = Secrets(directory)
    kept = before.keep({"token": TOKEN}, {"token"})
    before.keep({"token": "of a bot that the ledger never had"}, {"token"})
    Secrets(directory).sweep([{"start_number": 0}, kept])
    assert [file.name for file in directory.iterdir()] == [kept["token"].removeprefix("secret:")]


def test_a_directory_that_others_could_read_is_closed(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    Secrets(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_where_one_cannot_be_kept_none_is(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Secrets(directory)
    syncs = iter([None, OSError(28, os.strerror(28))])

    def full_at_the_second(fd: int) -> None:
        if error := next(syncs):
            raise error

    monkeypatch.setattr(os, "fsync", full_at_the_second)
    with pytest.raises(errors.Unavailable, match="cannot keep the secret b: No space left on device"):
        ours.keep({"a": "1", "b": "2"}, {"a", "b"})
    assert not list(directory.iterdir())
