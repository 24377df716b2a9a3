"""Files of weights as Paddle writes them, read as data.

``.pdparams`` is a pickled dict: name -> numpy array, and under ``StructuredToParameterName@@`` a dict of words
(paddle.save of a state dict, protocols 2 to 4). Unpickling runs what the stream names, so names mean what this module
says they mean, and any but four are refused. Nothing of numpy's own is called before sizes are known to fit.
"""

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_NAMES_OF_PARAMETERS = "StructuredToParameterName@@"
_PIECES = "UnpackBigParamInfor@@"
_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}  # u2 would be bfloat16
_AXES = 32  # the most that numpy has
_LONG = 2**16  # letters; a text as long is an array's bytes under protocol 2
_WAYS: Mapping[int, Any] = pickle._Unpickler.dispatch
_SET_ITEM, _SET_ITEMS = b"su"
_HASHING = b"\x8f\x90\x91d"  # what makes sets, and dicts as protocol 0 does: in no such file


def is_pickle(beginning: bytes) -> bool:
    """Whether a file that begins so is a pickle of protocol 2 or later, and none of torch's before 1.6."""
    return beginning[:1] == b"\x80" and beginning[1:2] in b"\2\3\4\5" and beginning[2:4] != b"\x8a\n"


def read_pdparams(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.pdparams`` file by their names, in its order; read-only. The file's size is held once, and
    twice that of the largest array while it is read.

    Raises pickle.UnpicklingError for a stream that names anything else ("GLOBAL module.name"), and ValueError, both
    with a reason, for content that is no state dict.
    """
    with path.open("rb") as file:
        try:
            reader = _Reader(file, encoding="latin1")
            reader.letters = path.stat().st_size
            content = reader.load()
            if file.read(1):
                raise ValueError("something follows the state dict in it")
        except (pickle.UnpicklingError, ValueError):
            raise
        except Exception as error:  # a damaged stream raises nearly anything
            raise ValueError("truncated, or not such a file") from error
    if not isinstance(content, dict) or _PIECES in content:
        raise ValueError(f"Paddle's file {'is in pieces' if isinstance(content, dict) else 'holds no state dict'}")
    content.pop(_NAMES_OF_PARAMETERS, None)
    for name, array in content.items():
        if not isinstance(array, _Array):
            raise ValueError(f"{name[:60]!r} in it is no array: paddle.save(network.state_dict(), path) alone")
    return {name: array.numbers() for name, array in content.items()}


class _Meaning:
    """What a name in the stream stands for: it may be called, and nothing that is built changes it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise pickle.UnpicklingError("it changes what it names")


class _Kind:
    """A numpy dtype of plain numbers."""

    __slots__ = ("order", "word")

    def __init__(self, word: object, *_how: object) -> None:
        if not isinstance(word, str) or word not in _KINDS:
            kind = repr(word[:20]) if isinstance(word, str) else "without a name"
            raise ValueError(f"it holds numbers of kind {kind}; float32 is what can be taken")
        self.word, self.order = word, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *rest = state
        if order not in ("<", ">", "|", "=") or any(each is not None for each in rest[:3]):
            raise ValueError("it holds numbers of a kind with parts")
        self.order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "<") + self.word)


class _Array:
    """An array as the stream tells it: first that there is one, then its shape, kind and bytes."""

    __slots__ = ("_encode", "_state")

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self._encode = encode
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, by_columns, data = state
        data = self._encode(data) if isinstance(data, str) else data  # of Python 2
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise ValueError("it holds arrays of objects")
        if len(shape) > _AXES or not all(isinstance(size, int) and 0 <= size < 2**63 for size in shape):
            raise ValueError("an array in it has no shape")
        if math.prod(shape) * kind.dtype().itemsize != len(data):
            raise ValueError("an array in it has another size than its shape")
        self._state = (shape, kind, by_columns, data)

    def numbers(self) -> NDArray[Any]:
        """The array, over the bytes that were read."""
        if not self._state:
            raise ValueError("an array in it has no numbers")
        shape, kind, by_columns, data = self._state
        return np.frombuffer(data, kind.dtype()).reshape(shape, order="F" if by_columns else "C")


class _Reader(pickle._Unpickler):
    """Admits numpy's three names and, as protocol 2 has them, bytes written as text; each by a meaning of its own.

    Python's own unpickler: that in C takes all memory where a stream numbers its parts high enough.
    """

    memo: dict[int, Any]
    stack: list[Any]
    letters: int  # that texts may still have: as many as the file has bytes

    def find_class(self, module: str, name: str) -> _Meaning:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _Meaning(lambda *_: _Array(self._encode))
            case "numpy", "ndarray":
                return _Meaning(_refuse)  # it is named, never called
            case "numpy", "dtype":
                return _Meaning(_Kind)
            case "_codecs", "encode":
                return _Meaning(self._bytes)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def _bytes(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("it encodes something else than bytes")
        if len(text) > _LONG:  # the reader remembers every text, as large again as the arrays
            for place in [place for place, value in self.memo.items() if value is text or value == (text, encoding)]:
                del self.memo[place]
        return self._encode(text)

    def _encode(self, text: str) -> bytes:
        """A text as bytes; a stream may name one a million times, and each would take memory of its own."""
        self.letters -= len(text)
        if self.letters < 0:
            raise ValueError("it holds more numbers than bytes")
        return text.encode("latin1")

    def _set_item(self) -> None:
        self._check_names([self.stack[-2]])
        _WAYS[_SET_ITEM](self)

    def _set_items(self) -> None:
        self._check_names(self.stack[::2])
        _WAYS[_SET_ITEMS](self)

    def _check_names(self, names: list[Any]) -> None:
        """To look up a tuple of tuples of tuples, all the same, may take for ever."""
        for name in names:
            if not isinstance(name, str):
                what = repr(name) if isinstance(name, int) else "something"
                raise ValueError(f"{what} in it is no name: paddle.save(network.state_dict(), path) alone")

    dispatch: ClassVar[dict[int, Any]] = {
        **{key: way for key, way in _WAYS.items() if key not in _HASHING},
        _SET_ITEM: _set_item,
        _SET_ITEMS: _set_items,
    }


def _refuse(*_: object) -> Any:
    raise pickle.UnpicklingError("it calls what is only named")
