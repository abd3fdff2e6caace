"""The tensors of a GGUF file (version 2 or 3): for the checks beside this file, not for others'
files."""
import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}   # of metadata
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, content):
        self.content, self.at = content, 8

    def number(self, form):
        value, = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self):
        length = self.number("Q")
        self.at += length
        return self.content[self.at - length:self.at].decode()

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            element, count = self.number("I"), self.number("Q")
            for _ in range(count):
                self.skip_value(element)
        else:
            self.at += SIZES[kind]


def read_gguf(path):
    """name -> (type, number of elements, bytes)"""
    with open(path, "rb") as file:
        reader = Reader(file.read())
    tensors, values = reader.number("Q"), reader.number("Q")
    for _ in range(values):
        reader.string()
        reader.skip_value(reader.number("I"))
    found = []
    for _ in range(tensors):
        name, count = reader.string(), 1
        for _ in range(reader.number("I")):
            count *= reader.number("Q")
        found.append((name, reader.number("I"), count, reader.number("Q")))
    data = (reader.at + 31) // 32 * 32
    found.sort(key=lambda tensor: tensor[3])
    ends = [tensor[3] for tensor in found[1:]] + [len(reader.content) - data]
    return {name: (kind, count, reader.content[data + begin:data + end])
            for (name, kind, count, begin), end in zip(found, ends)}
