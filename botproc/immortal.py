"""Objects whose references nobody counts any more.

Nearly all that Python does with an object writes to its reference count, and in a forked process each such write copies
a page. In CPython 3.12 and 3.13 an object can be immortal: its count is a certain number and stays it. What is made so
before the fork is shared by all bots until it is really changed. A bot then needs 1.5 MB of its own instead of 2.7.

Source: PEP 683. There is no call for it, but an object begins with its count, and None is immortal.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from collections.abc import Iterable

_CODE = {
    id(what)
    for what in (
        types.FunctionType,
        types.CodeType,
        types.CellType,
        types.BuiltinFunctionType,
        types.MethodDescriptorType,
        types.ClassMethodDescriptorType,
        types.WrapperDescriptorType,
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
        staticmethod,
        classmethod,
        property,
        str,
        bytes,
        int,
        float,
    )
}
"""What programs are made of, by id, beside modules and classes. When one of these ends, nobody can notice."""

# Before 3.12 all references are counted. Code that 3.14 has specialised counts those to its constants without a look
# at whether they are immortal, as they were not when it ran first: after 2**30 of these the count would begin anew.
# Where an object is larger, as without the global interpreter lock, something else comes first in it.
POSSIBLE = (3, 12) <= sys.version_info < (3, 14) and object.__basicsize__ == 16
"""Whether this interpreter lets objects be immortal."""


def make_immortal(modules: Iterable[types.ModuleType], *, values: bool) -> None:
    """The modules, and what is reached from them: the code only, or with `values` all of it.

    A value that is immortal is never finalised, not even when the last name of it is deleted. Does nothing in an
    interpreter where it cannot be done.
    """
    if not POSSIBLE:
        return
    immortal = _count(None).value
    todo: list[object] = list(modules)
    while todo:
        one = todo.pop()
        count = _count(one)
        if count.value == immortal:
            continue
        count.value = immortal
        # The collector is not told what code refers to. Of that, what is counted when it runs are its constants.
        for inner in one.co_consts if type(one) is types.CodeType else gc.get_referents(one):
            # Not `isinstance`, which asks the object, so that a lazy one would be made; nor `==`, which asks its class.
            what = type(inner)
            # The tuples and dicts of code are its defaults, bases and namespaces; those in a namespace are values.
            of_code = (what is dict or what is tuple) and type(one) is not dict
            if values or of_code or id(what) in _CODE or issubclass(what, (type, types.ModuleType)):
                todo.append(inner)


def _count(one: object) -> ctypes.c_uint64:
    """The reference count in its place."""
    return ctypes.c_uint64.from_address(id(one))
