"""awq.h and awq_cuda.cuh for torch tensors, through ctypes."""
import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_void_p

import torch

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
KERNELS = {"portable": 0, "gemv": 1, "gemm": 2, "wgmma": 3}


class Matrix(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("rows", c_size_t), ("cols", c_size_t), ("stride", c_size_t),
                ("dtype", c_int)]


class Quant(ctypes.Structure):
    _fields_ = [("bits", c_int), ("group_size", c_int), ("symmetric", c_int), ("scale_dtype", c_int)]


class Tensor(ctypes.Structure):         # awq_tensor
    _fields_ = [("out_features", c_size_t), ("in_features", c_size_t), ("quant", Quant),
                ("q", c_void_p), ("zeros", c_void_p), ("scales", c_void_p)]


class Packed(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("size", c_size_t), ("out_features", c_size_t),
                ("in_features", c_size_t), ("quant", Quant), ("layout", c_int),
                ("q_offset", c_size_t), ("scales_offset", c_size_t), ("zeros_offset", c_size_t)]


class CudaTensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("size", c_size_t), ("out_features", c_size_t),
                ("in_features", c_size_t), ("group_size", c_int), ("symmetric", c_int),
                ("dtype", c_int), ("scales_offset", c_size_t), ("zeros_offset", c_size_t)]


class Cuda(ctypes.Structure):
    _fields_ = [("sm", c_int), ("code_sm", c_int), ("has_wgmma", c_int), ("processors", c_int),
                ("weights_ready", c_int), ("shared_size", c_size_t), ("stream", c_void_p),
                ("workspace", c_void_p), ("workspace_size", c_size_t), ("needs", c_int),
                ("error", c_int)]


def matrix(t):
    """A view of a 2-D tensor whose rows are dense; None: no matrix."""
    if t is None:
        return Matrix(None, 0, 0, 0, 1)
    assert t.dim() == 2 and t.stride(1) == 1
    return Matrix(t.data_ptr(), t.shape[0], t.shape[1], t.stride(0), DTYPES[t.dtype])


class Library:
    """The device, its workspace, and the functions with their errors as exceptions."""

    def __init__(self, path, max_tokens=65536):
        self.c = ctypes.CDLL(path)
        self.c.awq_status_string.restype = c_char_p
        for name in ("awq_packed_size", "awq_cuda_tensor_size", "awq_cuda_workspace_size"):
            getattr(self.c, name).restype = c_size_t
        self.c.awq_packed_size.argtypes = [Quant, c_size_t, c_size_t]
        self.c.awq_packed_init.argtypes = [Quant, c_size_t, c_size_t, c_void_p, c_size_t]
        self.c.awq_pack.argtypes = [c_void_p, POINTER(Tensor), c_void_p, c_size_t, c_size_t, c_size_t,
                                    c_void_p]
        self.c.awq_packed_open.argtypes = [POINTER(Packed), c_void_p, c_size_t]
        self.c.awq_cuda_init.argtypes = [POINTER(Cuda), c_int, c_void_p]
        self.c.awq_cuda_workspace_size.argtypes = [POINTER(Cuda), c_size_t]
        self.c.awq_cuda_tensor_size.argtypes = [Quant, c_size_t, c_size_t, c_int]
        self.c.awq_cuda_tensor_init.argtypes = [POINTER(CudaTensor), Quant, c_size_t, c_size_t, c_int,
                                                c_void_p, c_size_t]
        self.c.awq_cuda_repack.argtypes = [POINTER(Cuda), POINTER(Packed), POINTER(CudaTensor)]
        self.c.awq_cuda_repack_host.argtypes = [POINTER(Packed), POINTER(CudaTensor), c_size_t, c_size_t]
        self.c.awq_cuda_dequantize.argtypes = [POINTER(Cuda), POINTER(CudaTensor), Matrix]
        self.c.awq_cuda_matmul_with.argtypes = [POINTER(Cuda), c_int, POINTER(CudaTensor), Matrix,
                                                c_void_p, Matrix, Matrix]
        self.c.awq_cuda_pick.argtypes = [POINTER(Cuda), POINTER(CudaTensor), c_size_t]
        self.c.awq_kernels_list.argtypes = [c_void_p, c_size_t]
        self.kernels = (c_ubyte * 4096)()       # an awq_kernels, whatever its size
        self.c.awq_kernels_list(self.kernels, 1)
        self.cuda = Cuda()
        self.check(self.c.awq_cuda_init(byref(self.cuda), torch.cuda.current_device(), None))
        self.cuda.workspace_size = self.c.awq_cuda_workspace_size(byref(self.cuda), max_tokens)
        self.workspace = torch.zeros(max(self.cuda.workspace_size, 1), dtype=torch.uint8, device="cuda")
        self.cuda.workspace = self.workspace.data_ptr()

    def check(self, status):
        if status:
            raise RuntimeError(f"{self.c.awq_status_string(status).decode()} "
                               f"(needs sm_{self.cuda.needs}, CUDA error {self.cuda.error})")

    def on_current_stream(self):
        self.cuda.stream = torch.cuda.current_stream().cuda_stream
        return byref(self.cuda)

    def pick(self, linear, tokens):
        number = self.c.awq_cuda_pick(byref(self.cuda), byref(linear.tensor), tokens)
        return next(name for name, n in KERNELS.items() if n == number)

    def matmul(self, linear, x, y, kernel, bias=None, residual=None):
        self.check(self.c.awq_cuda_matmul_with(
            self.on_current_stream(), KERNELS[kernel], byref(linear.tensor), matrix(x),
            None if bias is None else bias.data_ptr(), matrix(residual), matrix(y)))

    def dequantize(self, linear, out):
        self.check(self.c.awq_cuda_dequantize(self.on_current_stream(), byref(linear.tensor),
                                              matrix(out)))


class Linear:
    """A random quantized linear: what it is on the device, and its weights in float64."""

    def __init__(self, library, out_features, in_features, group_size=128, symmetric=False,
                 dtype=torch.float16, generator=None):
        size = in_features if group_size == -1 else group_size
        groups = -(-in_features // size)
        random = lambda *shape: torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator)
        self.q = random(out_features, in_features)
        self.zeros = torch.full((out_features, groups), 8, dtype=torch.uint8) if symmetric else \
            random(out_features, groups)
        self.scales = ((torch.rand(out_features, groups, generator=generator) + 0.5) / 100).to(dtype)
        self.group_size, self.dtype = group_size, dtype
        self.tensor = CudaTensor()
        self._pack(library, Quant(4, group_size, int(symmetric), DTYPES[dtype]))

    def _pack(self, library, quant):
        c, out, inputs = library.c, *self.q.shape
        size = c.awq_packed_size(quant, out, inputs)
        packed = torch.empty(size, dtype=torch.uint8)
        source = Tensor(out, inputs, quant, self.q.data_ptr(), self.zeros.data_ptr(),
                        self.scales.data_ptr())
        view = Packed()
        library.check(c.awq_packed_init(quant, out, inputs, packed.data_ptr(), size))
        library.check(c.awq_pack(library.kernels, byref(source), packed.data_ptr(), size, 0, out, None))
        library.check(c.awq_packed_open(byref(view), packed.data_ptr(), size))
        self._repack(library, quant, packed, view)

    def _repack(self, library, quant, packed, view):
        c, out, inputs = library.c, *self.q.shape
        size = c.awq_cuda_tensor_size(quant, out, inputs, DTYPES[self.dtype])
        self.memory = torch.full((size,), 0x5a, dtype=torch.uint8, device="cuda")
        library.check(c.awq_cuda_tensor_init(byref(self.tensor), quant, out, inputs,
                                             DTYPES[self.dtype], self.memory.data_ptr(), size))
        expected = None if self.q.numel() > 1 << 25 else self._repack_on_host(library, quant, view)
        on_device = packed.cuda()
        view.data = on_device.data_ptr()
        library.check(c.awq_cuda_repack(library.on_current_stream(), byref(view), byref(self.tensor)))
        torch.cuda.synchronize()
        assert expected is None or torch.equal(self.memory.cpu(), expected), "host repacks otherwise"

    def _repack_on_host(self, library, quant, view):
        c, out, inputs = library.c, *self.q.shape
        size = self.memory.numel()
        memory = torch.empty(size + 16, dtype=torch.uint8)
        memory = memory[-memory.data_ptr() % 16:][:size]
        tensor = CudaTensor()
        library.check(c.awq_cuda_tensor_init(byref(tensor), quant, out, inputs, DTYPES[self.dtype],
                                             memory.data_ptr(), size))
        library.check(c.awq_cuda_repack_host(byref(view), byref(tensor), 0, out))
        return memory

    def weights(self):
        """float64, on the device."""
        size = self.q.shape[1] if self.group_size == -1 else self.group_size
        spread = lambda t: t.repeat_interleave(size, 1)[:, :self.q.shape[1]].cuda().double()
        return (self.q.cuda().double() - spread(self.zeros)) * spread(self.scales)

    def copy(self):
        """The same linear elsewhere in memory."""
        other = object.__new__(Linear)
        other.__dict__.update(self.__dict__)
        other.memory = self.memory.clone()
        other.tensor = CudaTensor.from_buffer_copy(self.tensor)
        other.tensor.data = other.memory.data_ptr()
        return other
