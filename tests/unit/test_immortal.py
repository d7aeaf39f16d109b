"""What is made immortal is so for good: each test does it in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

COUNTS_ALWAYS = not (3, 12) <= sys.version_info < (3, 14) or bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

MODULE = """
class Value:
    def __del__(self):
        print("ended")

class Word(str):
    pass

word = Word("a word")

class Lazy:
    @property
    def __class__(self):
        raise RuntimeError("there is nothing yet")

lazy = Lazy()

class Incomparable(type):
    def __eq__(self, other):
        raise RuntimeError("these cannot be compared")

    __hash__ = None

incomparable = Incomparable("name", (), {})()

def function(argument=("a", "default")):
    def within():
        return argument + (1.25,)
    return within()

value = Value()
values = [Value()]
"""

BEGIN = """
import gc, sys
import module
from botproc import immortal

[within] = [one for one in module.function.__code__.co_consts if hasattr(one, "co_consts")]

def counted(one):
    before = sys.getrefcount(one)
    more = [one] * 3
    return sys.getrefcount(one) == before + 3
"""


def run(tmp_path: Path, *lines: str) -> list[str]:
    (tmp_path / "module.py").write_text(MODULE)
    code = "\n".join([f"import sys; sys.path.insert(0, {str(tmp_path)!r})", BEGIN, *lines])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # At the end of the interpreter the values end that still can.
    return done.stdout.split()


@pytest.mark.skipif(COUNTS_ALWAYS, reason="this interpreter counts all references")
@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("module", False),
        ("module.function", False),
        ("module.function.__code__", False),
        ("module.function.__defaults__", False),
        ("within", False),
        ("within.co_consts[-1]", False),
        ("module.Value.__dict__['__del__']", False),
        ("module.value", True),
        ("module.values", True),
        ("module.values[0]", True),
    ],
)
def test_what_is_not_counted_any_more(tmp_path: Path, what: str, values: bool) -> None:
    lines = [f"immortal.make_immortal([module], values={values})"]
    # The collector meets them too, and what they refer to is still there.
    lines += ["gc.collect()", f"print(counted({what}), module.function()[-1], len(module.values))"]
    assert run(tmp_path, *lines)[:3] == ["False", "1.25", "1"]


def test_a_value_ends_as_ever(tmp_path: Path) -> None:
    lines = ["immortal.make_immortal([module], values=False)"]
    lines += ["print(counted(module.value), counted(module.values), counted(module.word))"]
    lines += ["del module.value; print('next'); del module.values"]
    assert run(tmp_path, *lines) == ["True", "True", "True", "ended", "next", "ended"]


@pytest.mark.skipif(not COUNTS_ALWAYS, reason="this interpreter lets objects be immortal")
def test_nothing_happens_where_all_is_counted(tmp_path: Path) -> None:
    lines = ["immortal.make_immortal([module], values=True)"]
    lines += ["print(counted(module.function), counted(module.value))"]
    assert run(tmp_path, *lines) == ["True", "True", "ended", "ended"]


def test_all_that_python_has_can_be(tmp_path: Path) -> None:
    """As the zygote does it, and then a good deal is done with it."""
    lines = ["import asyncio, email.message, json, logging, multiprocessing, re, typing, unittest"]
    lines += ["immortal.make_immortal(sys.modules.values(), values=True)"]
    lines += ["import decimal, http.client, sqlite3"]
    lines += ["gc.collect(); gc.unfreeze(); gc.collect()"]
    lines += ["assert asyncio.run(asyncio.sleep(0.001, [1])) == [1]"]
    lines += ["assert json.loads(json.dumps({'a': [1.5, None, 'b' * 3]})) == {'a': [1.5, None, 'bbb']}"]
    lines += ["word = sys.intern('never ' + 'seen before'); word += '!'; assert word == 'never seen before!'"]
    lines += ["assert list(zip(*[map(str, range(2))] * 2)) == [('0', '1')]"]
    lines += ["assert re.sub('a', 'b', 'aa') == 'bb' and decimal.Decimal(1) / 4 == decimal.Decimal('0.25')"]
    lines += ["assert sqlite3.connect(':memory:').execute('select 1').fetchall() == [(1,)]"]
    lines += ["print('fine')"]
    assert run(tmp_path, *lines)[0] == "fine"
