"""ggml, as the package llama-cpp-python brings it, driven through ctypes: matrix products whose
4-bit weights were rearranged for this processor, as llama.cpp does when it loads a model."""
import ctypes
import importlib.util
import os
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p

TYPES = {"q4_0": 2, "q4_k": 12}
F32 = 0


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class TypeTraits(ctypes.Structure):
    _fields_ = [("type_name", c_char_p), ("blck_size", c_int64), ("blck_size_interleave", c_int64),
                ("type_size", c_size_t), ("is_quantized", c_bool),
                ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64))]


Log = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)

# name: result, arguments
FUNCTIONS = {
    "ggml_log_set": (None, [Log, c_void_p]),
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p] * 3),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p] * 2),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p] + [c_int64] * 3 + [c_void_p]),
    "ggml_get_type_traits": (ctypes.POINTER(TypeTraits), [c_int]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p] * 2),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p] * 2),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
}


class Ggml:
    """The functions above, from whichever of its libraries has them."""

    def __init__(self):
        package = importlib.util.find_spec("llama_cpp")
        if package is None:
            raise ImportError("No module named 'llama_cpp'")
        folder = os.path.join(os.path.dirname(package.origin), "lib")
        libraries = [ctypes.CDLL(os.path.join(folder, f"libggml-{part}.so"), ctypes.RTLD_GLOBAL)
                     for part in ("base", "cpu")]
        for name, (result, arguments) in FUNCTIONS.items():
            function = next(getattr(lib, name) for lib in libraries if hasattr(lib, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name[len("ggml_"):], function)
        self.silent = Log(lambda level, text, data: None)
        self.log_set(self.silent, None)

    def context(self):
        return self.init(InitParams(16 << 20, None, True))

    def rearranged(self):
        """The memory in which tensors are rearranged, or plain memory where there is none."""
        registry = self.backend_cpu_reg()
        address = self.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        kinds = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(
            self.backend_reg_dev_get(registry, 0))
        i = 0
        while kinds and kinds[i]:
            if self.backend_buft_name(kinds[i]) == b"CPU_REPACK":
                return kinds[i]
            i += 1
        return self.backend_cpu_buffer_type()


def quantized(ggml, kind, w):
    """Bytes of the rows of w, and the floats they stand for."""
    import numpy as np
    rows, cols = w.shape
    traits = ggml.get_type_traits(kind).contents
    data = np.empty(w.size // traits.blck_size * traits.type_size, np.uint8)
    ggml.quantize_chunk(kind, w.ctypes.data, data.ctypes.data, 0, rows, cols, None)
    what = np.empty_like(w)
    traits.to_float(data.ctypes.data, what.ctypes.data, w.size)
    return data, what


def compile_ggml(kernel, linear, copies, threads):
    """As the compile functions of peers.py; the linear is quantized again, ggml's way."""
    import numpy as np
    ggml = Ggml()
    kind = TYPES[kernel]
    data, what = quantized(ggml, kind, linear.normal_weights())
    linear.stands_for(what, data.nbytes)
    backend = ggml.backend_cpu_init()
    ggml.backend_cpu_set_n_threads(backend, threads)
    weights, shape = ggml.context(), (linear.in_features, linear.out_features)
    tensors = [ggml.new_tensor_2d(weights, kind, *shape) for _ in range(copies)]
    memory = ggml.rearranged()
    ggml.backend_alloc_ctx_tensors_from_buft(weights, memory)
    for tensor in tensors:
        ggml.backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
    graphs = {}

    def graph_of(tokens):
        context = ggml.context()
        graph = ggml.new_graph(context)
        x = ggml.new_tensor_2d(context, F32, linear.in_features, tokens)
        products = [ggml.mul_mat(context, tensor, x) for tensor in tensors]
        for product in products:
            ggml.build_forward_expand(graph, product)
        ggml.backend_alloc_ctx_tensors_from_buft(context, ggml.backend_cpu_buffer_type())
        return graph, x, products[0]

    def run(values):
        tokens = len(values)
        if tokens not in graphs:
            graphs[tokens] = graph_of(tokens)
        graph, x, product = graphs[tokens]
        ggml.backend_tensor_set(x, values.ctypes.data, 0, values.nbytes)
        if ggml.backend_graph_compute(backend, graph) != 0:
            raise RuntimeError("ggml could not compute the product")
        y = np.empty((tokens, linear.out_features), np.float32)
        ggml.backend_tensor_get(product, y.ctypes.data, 0, y.nbytes)
        return y
    return run, f"ggml {ggml.backend_buft_name(memory).decode()}"
