"""header.py - writes a C file that compiles only if awq.py says what awq.h says: the layout of
every struct, the values of its constants, the types of the functions that it calls.
"""
import re
import sys
from ctypes import Structure, c_size_t, c_void_p, sizeof
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import awq  # noqa: E402

C_NAMES = {None: "void", c_void_p: "void *", c_size_t: "size_t"}


def same(left, right, relation="=="):
    print(f"typedef char same_{same.count}[{left} {relation} {right} ? 1 : -1];")
    same.count += 1


same.count = 0
structs = {name: kind for name, kind in vars(awq).items()
           if isinstance(kind, type) and issubclass(kind, Structure) and kind is not Structure}
constants = {name: value for name, value in vars(awq).items()
             if name.isupper() and isinstance(value, int)}
enums = set(re.findall(r"(awq_\w+)(?![\w(])", awq.PROTOTYPES)) - set(structs)

print('#include "awq.h"\n#include <stddef.h>')
print(awq.PROTOTYPES)
for name, kind in structs.items():
    fields = [field for field, _ in kind._fields_ if field != "internal"]
    same(f"sizeof({name})", sizeof(kind), "==" if len(fields) == len(kind._fields_) else "<=")
    for field in fields:
        same(f"offsetof({name}, {field})", getattr(kind, field).offset)
        same(f"sizeof((({name} *)0)->{field})", getattr(kind, field).size)
for name, value in constants.items():
    same(f"(int)AWQ_{name}", value)
for name in sorted(enums):
    same(f"sizeof({name})", "sizeof(int)")
task = ", ".join(C_NAMES[kind] for kind in awq.TASK._argtypes_)
run = ", ".join(C_NAMES.get(kind, "awq_task *") for kind in awq.RUN._argtypes_)
print(f"extern {C_NAMES[awq.TASK._restype_]} task({task});\nawq_task *const a_task = task;")
print(f"extern {C_NAMES[awq.RUN._restype_]} run({run});")
print("const awq_parallel a_parallel = { run, 0, 1 };")
