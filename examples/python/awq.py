"""awq.py - awq.h over NumPy arrays, by ctypes: nothing to compile but the shared library.

    stats = awq.Stats(in_features)
    stats.add(x)                                            # every batch of inputs there is
    known = awq.inputs(stats, rows=x)
    found = awq.search(known, [weight], quant)              # quant = awq.Quant(4, 128)
    linear = awq.Linear.quantize(weight, quant, found.scale)
    y = linear(x, input_scale=found.scale)                  # ~ x @ weight.T, from 4-bit weights

Matrices are 2-D arrays of float32, float16 or (ml_dtypes) bfloat16 whose rows lie in one piece;
vectors are float32. What the library refuses is raised as awq.Error, with its own sentence.

`make shared` builds the library. It is looked for at $AWQ_LIBRARY (a file or a folder; build/shared
if there is no such variable), then where the system keeps its libraries. awq.h is the manual.
"""
import os
import re
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor, wait
from ctypes import (CDLL, CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int, c_size_t,
                    c_uint64, c_void_p, pointer)
from ctypes.util import find_library
from pathlib import Path

import numpy as np

VERSION = 100                                               # AWQ_VERSION of the awq.h mirrored

ERR_DATA, ERR_SCALE = -7, -8                                # awq_status that name an element
F32, F16, BF16 = 0, 1, 2                                    # awq_dtype
ABS_MAX, ABS_MEAN, SQ_MEAN = 0, 1, 2                        # awq_statistic
SCALE_MAX, SCALE_MEAN, SCALE_DUO, SCALE_KERAS = 0, 1, 2, 3  # awq_scale_rule
LOSS_ROWS, LOSS_SKETCH, LOSS_GRAM, LOSS_DIAGONAL = 0, 1, 2, 3                         # awq_loss
PRESET_PAPER, PRESET_LLM_AWQ, PRESET_AUTOAWQ, PRESET_KERAS = 0, 1, 2, 3             # awq_preset
FOLD, UNFOLD = 0, 1                                         # awq_direction
A16, A8 = 0, 1                                              # awq_precision
DTYPES = {"float32": F32, "float16": F16, "bfloat16": BF16}

# ---- what stands in awq.h, too: the tests have a C compiler compare it

TASK = CFUNCTYPE(None, c_void_p, c_size_t, c_size_t, c_size_t)
RUN = CFUNCTYPE(None, c_void_p, c_size_t, c_size_t, TASK, c_void_p)


class awq_matrix(Structure):
    _fields_ = [("data", c_void_p), ("rows", c_size_t), ("cols", c_size_t), ("stride", c_size_t),
                ("dtype", c_int)]


class awq_where(Structure):
    _fields_ = [("matrix", c_size_t), ("row", c_size_t), ("col", c_size_t)]


class awq_quant(Structure):
    _fields_ = [("bits", c_int), ("group_size", c_int), ("symmetric", c_int),
                ("scale_dtype", c_int)]


class awq_parallel(Structure):
    _fields_ = [("run", RUN), ("context", c_void_p), ("workers", c_size_t)]


class awq_kernels(Structure):           # internal: room for its tiles, and for more
    _fields_ = [("name", c_char_p), ("prepared_format", c_int), ("internal", c_void_p * 32)]


class awq_stats(Structure):
    _fields_ = [("in_features", c_size_t), ("sketch_rows", c_size_t), ("sketch_seed", c_uint64),
                ("first_token", c_uint64), ("count", c_uint64), ("weight", c_double),
                ("is_centred", c_int), ("abs_max", c_void_p), ("sum", c_void_p),
                ("abs_sum", c_void_p), ("sq_sum", c_void_p), ("sketch", c_void_p),
                ("gram", c_void_p), ("block", c_void_p)]


class awq_inputs(Structure):
    _fields_ = [("loss", c_int), ("stats", POINTER(awq_stats)), ("rows", awq_matrix),
                ("token_weight", c_void_p), ("callback", c_void_p), ("context", c_void_p)]


class awq_tie(Structure):
    _fields_ = [("repeat", c_size_t), ("head_dim", c_size_t)]


class awq_search_config(Structure):
    _fields_ = [("quant", awq_quant), ("rule", c_int), ("grid_points", c_int),
                ("grid_steps", c_int), ("tie", awq_tie)]


class awq_search_result(Structure):
    _fields_ = [("index", c_int), ("ratio", c_double), ("is_identity", c_int),
                ("loss", c_double), ("identity_loss", c_double)]


class awq_clip_config(Structure):
    _fields_ = [("quant", awq_quant), ("grid_points", c_int), ("grid_steps", c_int)]


class awq_packed(Structure):
    _fields_ = [("data", c_void_p), ("size", c_size_t), ("out_features", c_size_t),
                ("in_features", c_size_t), ("quant", awq_quant), ("layout", c_int),
                ("q_offset", c_size_t), ("scales_offset", c_size_t), ("zeros_offset", c_size_t)]


class awq_prepared(Structure):
    _fields_ = [("data", c_void_p), ("tokens", c_size_t), ("in_features", c_size_t),
                ("group_size", c_int), ("precision", c_int), ("format", c_int),
                ("token_size", c_size_t), ("stored", c_size_t), ("index", c_void_p)]


PROTOTYPES = """
int awq_version(void);
const char *awq_status_string(awq_status);
awq_kernels awq_kernels_best(void);
size_t awq_group_count(size_t, int);
size_t awq_stats_size(size_t, size_t, int);
awq_status awq_stats_init(awq_stats *, size_t, size_t, int, uint64_t, void *, size_t);
awq_status awq_stats_add(const awq_kernels *, awq_stats *, awq_matrix, const float *,
    const awq_parallel *, awq_where *);
awq_status awq_stats_merge(awq_stats *, const awq_stats *);
awq_status awq_stats_get(const awq_stats *, awq_statistic, float *);
awq_status awq_weight_stat(const awq_matrix *, size_t, int, double *, awq_where *);
awq_status awq_scale_at(awq_scale_rule, double, size_t, const float *, const double *, float *,
    awq_where *);
awq_search_config awq_search_preset(awq_preset, awq_quant);
size_t awq_search_scratch_size(const awq_inputs *, const awq_matrix *, size_t,
    const awq_parallel *);
awq_status awq_search(const awq_kernels *, const awq_search_config *, const awq_inputs *,
    const awq_matrix *, size_t, void *, size_t, const awq_parallel *, float *, double *,
    awq_search_result *, awq_where *);
awq_status awq_output_error(const awq_kernels *, const awq_inputs *, awq_matrix, awq_matrix,
    void *, size_t, const awq_parallel *, double *, awq_where *);
awq_status awq_fold_norm(awq_direction, const float *, size_t, awq_matrix, awq_matrix,
    awq_where *);
awq_clip_config awq_clip_preset(awq_quant);
size_t awq_clip_scratch_size(const awq_inputs *, awq_matrix, const awq_clip_config *,
    const awq_parallel *);
awq_status awq_clip_search(const awq_kernels *, const awq_clip_config *, const awq_inputs *,
    awq_matrix, const float *, void *, size_t, const awq_parallel *, float *, awq_where *);
awq_status awq_fake_quantize(const awq_kernels *, awq_quant, awq_matrix, const float *,
    const float *, awq_matrix, size_t, size_t, awq_where *);
size_t awq_packed_size(awq_quant, size_t, size_t);
awq_status awq_packed_init(awq_quant, size_t, size_t, void *, size_t);
awq_status awq_packed_open(awq_packed *, const void *, size_t);
awq_status awq_packed_check(const awq_packed *, awq_where *);
awq_status awq_packed_dequantize(const awq_packed *, const float *, awq_matrix, size_t, size_t);
awq_status awq_quantize_packed(const awq_kernels *, awq_matrix, const float *, const float *,
    void *, size_t, size_t, size_t, awq_where *);
size_t awq_prepared_size(const awq_kernels *, size_t, int, awq_precision, size_t);
awq_status awq_prepare(const awq_kernels *, int, awq_precision, awq_matrix, const float *, void *,
    size_t, size_t, size_t, awq_prepared *, awq_where *);
awq_status awq_matmul(const awq_kernels *, const awq_packed *, const awq_prepared *, const float *,
    awq_matrix, size_t, size_t);
"""


# ---- the library ---------------------------------------------------------------------------------


class Error(ValueError):
    """What the library refused: its sentence, and the element to blame where it names one."""

    def __init__(self, function, status, where=None):
        sentence = _library.awq_status_string(status).decode()
        if where and status in (ERR_DATA, ERR_SCALE):
            sentence += f" (matrix {where.matrix}, row {where.row}, column {where.col})"
        super().__init__(f"{function}: {sentence}")
        self.status, self.where = status, where


def _raise(status, function, arguments):
    if status:
        raise Error(function.__name__, status,
                    next((a for a in arguments if isinstance(a, awq_where)), None))


class _Address(c_void_p):
    """A pointer argument: NumPy arrays pass as where they lie, None as NULL."""

    @classmethod
    def from_param(cls, value):
        return c_void_p.from_param(value.ctypes.data if isinstance(value, np.ndarray) else value)


def _ctype(text):
    """The ctypes class of a C type. All enums of awq.h are int."""
    name, is_pointer, _ = text.replace("const ", "").replace(" ", "").partition("*")
    named = {"size_t": c_size_t, "uint64_t": c_uint64, "double": c_double, "void": None}
    if name in globals():
        return POINTER(globals()[name]) if is_pointer else globals()[name]
    if is_pointer:
        return c_char_p if name == "char" else _Address
    return named.get(name, c_int)


def _declare(library, prototype):
    result, name, arguments = re.match(r"(.+?)(awq_\w+)\((.+)\)", prototype).groups()
    function = getattr(library, name)
    function.restype = _ctype(result)
    function.argtypes = [_ctype(a) for a in arguments.split(",") if a != "void"]
    if result == "awq_status ":
        function.errcheck = _raise


def _load():
    built = Path(__file__).resolve().parents[2] / "build" / "shared"
    place = Path(os.environ.get("AWQ_LIBRARY", built))
    names = ("libawq.so", "libawq.dylib", "libawq.dll", "awq.dll")
    found = [place] if place.is_file() else [place / n for n in names if (place / n).exists()]
    path = str(found[0].resolve()) if found else find_library("awq")
    if not path:
        raise ImportError(f"awq.py: {place} is no shared library and holds none: `make shared` "
                          "builds build/shared; AWQ_LIBRARY names another place")
    library = CDLL(path)
    for prototype in " ".join(PROTOTYPES.split()).split(";")[:-1]:
        _declare(library, prototype.strip())
    if library.awq_version() != VERSION:
        raise ImportError(f"awq.py: {path} is of version {library.awq_version()}, this file is "
                          f"for {VERSION}")
    return library


_library = _load()
kernels = _library.awq_kernels_best()                       # for this processor

# ---- arrays: what C would misread is refused in words --------------------------------------------


def _expect(array, name, shape, dtypes):
    """A string in shape stands for any number."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        raise TypeError(f"{name}: expected dtype {' or '.join(dtypes)}, got {array.dtype}: "
                        f"{name}.astype(numpy.{dtypes[0]}) converts it")
    if len(shape) != array.ndim or any(want != have and not isinstance(want, str)
                                       for want, have in zip(shape, array.shape)):
        raise ValueError(f"{name}: expected shape ({', '.join(map(str, shape))}), "
                         f"got {array.shape}")
    if array.strides[-1] != array.itemsize and array.size and array.shape[-1] > 1:
        raise ValueError(f"{name}: its elements do not lie side by side: "
                         f"numpy.ascontiguousarray({name}) copies them so")


def _matrix(array, name="out", rows="rows", cols="columns"):
    _expect(array, name, (rows, cols), tuple(DTYPES))
    stride, rest = divmod(array.strides[0], array.itemsize)
    if array.shape[0] < 2:                                  # NumPy's strides say nothing then
        stride, rest = array.shape[1], 0
    if rest or stride < array.shape[1]:
        raise ValueError(f"{name}: its rows do not follow one another: "
                         f"numpy.ascontiguousarray({name}) copies them so")
    return awq_matrix(array.ctypes.data, *array.shape, stride, DTYPES[array.dtype.name])


def _vector(array, name, *shape, dtype="float32"):
    """The array, if it is one; None, which stands for 1 or for nothing, stays None."""
    if array is not None:
        _expect(array, name, shape, (dtype,))
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: not contiguous: numpy.ascontiguousarray({name}) copies it")
    return array


def _memory(size):
    """Scratch, aligned for double. Why a size is 0, the function that gets it will say."""
    return (c_double * (size // 8 + 1))()


class Threads:
    """A parallel-for over Python threads: ctypes lets others run while C works."""

    def __init__(self, workers=None):
        self.workers = workers or os.cpu_count()
        self.pool = ThreadPoolExecutor(self.workers)
        self.struct = awq_parallel(RUN(self._run), None, self.workers)

    def _run(self, context, count, step, task, arg):
        size = max(step, count // (4 * self.workers) // step * step)
        begins = iter(range(0, count, size))                # of all: who is free takes the next

        def work(worker):
            for begin in begins:
                task(arg, begin, min(begin + size, count), worker)

        futures = [self.pool.submit(work, worker) for worker in range(self.workers)]
        try:
            wait(futures)
        finally:
            wait(futures)                                   # after ^C, too: they use C's memory


# ---- calibrate, search, fold, clip ---------------------------------------------------------------


def Quant(bits=4, group_size=128, symmetric=False, scale_dtype=F16):
    """How weights are stored."""
    return awq_quant(bits, group_size, symmetric, scale_dtype)


class Stats:
    """What is known about the inputs of a linear, in memory that does not grow with the tokens."""

    def __init__(self, in_features, sketch_rows=0, gram=False, seed=1):
        size = _library.awq_stats_size(in_features, sketch_rows, gram)
        self.in_features, self.struct, self._memory = in_features, awq_stats(), _memory(size)
        _library.awq_stats_init(self.struct, in_features, sketch_rows, gram, seed, self._memory,
                                size)

    def add(self, x, token_weight=None, threads=None):
        """A batch of inputs; of each channel max |x|, sum |x| and sum x^2 are kept."""
        view = _matrix(x, "x", "tokens", self.in_features)
        _library.awq_stats_add(kernels, self.struct, view,
                               _vector(token_weight, "token_weight", view.rows),
                               threads and threads.struct, awq_where())

    def merge(self, other):
        """Adds what another Stats, of other tokens, has seen."""
        _library.awq_stats_merge(self.struct, other.struct)

    def get(self, statistic):
        """One number per channel: ABS_MAX, ABS_MEAN or SQ_MEAN."""
        out = np.empty(self.in_features, np.float32)
        _library.awq_stats_get(self.struct, statistic, out)
        return out


def inputs(stats, rows=None, token_weight=None, loss=LOSS_ROWS):
    """What losses are measured on: the rows of X given, or what stats hold of every token."""
    known = awq_inputs(loss, pointer(stats.struct))
    known.in_features, known.kept = stats.in_features, (stats, rows, token_weight)
    if rows is not None:
        known.rows = _matrix(rows, "rows", "tokens", stats.in_features)
        if _vector(token_weight, "token_weight", len(rows)) is not None:
            known.token_weight = token_weight.ctypes.data
    return known


def _weights(weights, in_features="in_features"):
    return (awq_matrix * len(weights))(*[_matrix(w, "weight", "out_features", in_features)
                                         for w in weights])


Found = namedtuple("Found", "scale curve index ratio is_identity loss identity_loss")


def search(known, weights, quant, preset=PRESET_AUTOAWQ, threads=None):
    """The scale s that linears of one input like best; curve is the loss of each ratio tried."""
    config, result = _library.awq_search_preset(preset, quant), awq_search_result()
    views, parallel = _weights(weights, known.in_features), threads and threads.struct
    size = _library.awq_search_scratch_size(known, views, len(views), parallel)
    scale, curve = np.empty(known.in_features, np.float32), np.empty(config.grid_points)
    _library.awq_search(kernels, config, known, views, len(views), _memory(size), size, parallel,
                        scale, curve, result, awq_where())
    return Found(scale, curve, result.index, result.ratio, bool(result.is_identity), result.loss,
                 result.identity_loss)


def weight_stat(weights, group_size):
    """The mean over rows of |w| / max |w| of its group, per channel."""
    views = _weights(weights)
    out = np.empty(views[0].cols)
    _library.awq_weight_stat(views, len(views), group_size, out, awq_where())
    return out


def scale_at(rule, ratio, act_stat, weight_stat=None):
    """The candidate s of one ratio."""
    out = np.empty(len(_vector(act_stat, "act_stat", "channels")), np.float32)
    _library.awq_scale_at(rule, ratio, len(out), act_stat,
                          _vector(weight_stat, "weight_stat", len(out), dtype="float64"), out,
                          awq_where())
    return out


def output_error(known, weight, approximation=None, threads=None):
    """The mean over tokens and rows of ((What - W) x)^2; of (W x)^2 if there is no What."""
    views, parallel = _weights([weight], known.in_features), threads and threads.struct
    other = awq_matrix()
    if approximation is not None:
        other = _matrix(approximation, "approximation", *weight.shape)
    size, out = _library.awq_search_scratch_size(known, views, 1, parallel), np.empty(1)
    _library.awq_output_error(kernels, known, views[0], other, _memory(size), size, parallel, out,
                              awq_where())
    return float(out[0])


def fold_norm(scale, weight, bias=None, direction=FOLD):
    """Divides what makes x, a norm's weight and bias, by s, in place."""
    count = len(_vector(scale, "scale", "channels"))
    views = [awq_matrix(None, 1, count, count, F32)] * 2
    for i, (array, name) in enumerate(((weight, "weight"), (bias, "bias"))):
        if array is not None:
            _expect(array, name, (count,), tuple(DTYPES))
            if not array.flags.writeable:
                raise ValueError(f"{name}: is read-only, and the result goes into it")
            views[i] = _matrix(array[None], name)
    _library.awq_fold_norm(direction, scale, count, *views, awq_where())


def clip(known, weight, quant, scale=None, threads=None):
    """The largest |w s| worth keeping, per row and group."""
    config, parallel = _library.awq_clip_preset(quant), threads and threads.struct
    view, = _weights([weight], known.in_features)
    size = _library.awq_clip_scratch_size(known, view, config, parallel)
    out = np.empty(_grid(view, quant), np.float32)
    _library.awq_clip_search(kernels, config, known, view, _vector(scale, "scale", view.cols),
                             _memory(size), size, parallel, out, awq_where())
    return out


def _grid(view, quant):
    return view.rows, _library.awq_group_count(view.cols, quant.group_size)


# ---- quantize, run -------------------------------------------------------------------------------


def fake_quantize(weight, quant, scale=None, clip_max=None):
    """Q(clamp(W s)) / s: what the linear becomes, in float32."""
    view, = _weights([weight])
    out = np.empty(weight.shape, np.float32)
    _library.awq_fake_quantize(kernels, quant, view, _vector(scale, "scale", view.cols),
                               _vector(clip_max, "clip_max", *_grid(view, quant)), _matrix(out),
                               0, view.rows, awq_where())
    return out


class Linear:
    """A quantized linear: bytes without pointers, as good in a file as in memory."""

    def __init__(self, data):
        self.data = np.frombuffer(data, np.uint8)           # bytes, an array, a mapped file
        self.packed = awq_packed()
        _library.awq_packed_open(self.packed, self.data, self.data.size)
        _library.awq_packed_check(self.packed, awq_where())
        self.shape = self.packed.out_features, self.packed.in_features

    @classmethod
    def quantize(cls, weight, quant, scale=None, clip_max=None):
        """W s, rounded: its inputs are to be x / s."""
        view, = _weights([weight])
        size = _library.awq_packed_size(quant, view.rows, view.cols)
        data = np.empty(size, np.uint8)
        _library.awq_packed_init(quant, view.rows, view.cols, data, size)
        _library.awq_quantize_packed(kernels, view, _vector(scale, "scale", view.cols),
                                     _vector(clip_max, "clip_max", *_grid(view, quant)), data,
                                     size, 0, view.rows, awq_where())
        return cls(data)

    def dequantize(self, scale=None):
        """What is stored, divided by s, in float32."""
        out = np.empty(self.shape, np.float32)
        _library.awq_packed_dequantize(self.packed, _vector(scale, "scale", self.shape[1]),
                                       _matrix(out), 0, self.shape[0])
        return out

    def __call__(self, x, input_scale=None, bias=None, precision=A16):
        """y = x What^T + bias, of x / s where s was not folded into what makes x."""
        view, groups = _matrix(x, "x", "tokens", self.shape[1]), self.packed.quant.group_size
        size = _library.awq_prepared_size(kernels, view.cols, groups, precision, view.rows)
        memory, prepared = _memory(size), awq_prepared()
        _library.awq_prepare(kernels, groups, precision, view,
                             _vector(input_scale, "input_scale", view.cols), memory, size, 0,
                             view.rows, prepared, awq_where())
        out = np.empty((view.rows, self.shape[0]), np.float32)
        _library.awq_matmul(kernels, self.packed, prepared, _vector(bias, "bias", self.shape[0]),
                            _matrix(out), 0, self.shape[0])
        return out
