#!/usr/bin/env python3
"""Writes unicode_tables.h, the character classes that byte-level BPE pre-tokenizers ask for.

    pip install unicodedata2==15.1.0 && python3 unicode_tables.py > unicode_tables.h

Every entry is a code point where the class changes: (first code point << 2) | class.
"""
import unicodedata2 as unicode

WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
               0x2028, 0x2029, 0x202F, 0x205F, 0x3000}    # the White_Space property
OTHER, LETTER, NUMBER, SPACE = range(4)


def char_class(code_point):
    if code_point in WHITE_SPACE:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicode.category(chr(code_point))[0], OTHER)


def main():
    entries, current = [], None
    for code_point in range(0x110000):
        here = char_class(code_point)
        if here != current:
            entries.append(code_point << 2 | here)
            current = here
    print(f"/*  Made by unicode_tables.py from Unicode {unicode.unidata_version}; do not edit.\n"
          "    Entries: first code point << 2 | class. */")
    print("#ifndef LLM_UNICODE_TABLES_H\n#define LLM_UNICODE_TABLES_H\n\n#include <stdint.h>\n")
    print("enum { UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_SPACE };\n")
    print(f"static const uint32_t unicode_class_changes[{len(entries)}] = {{")
    for i in range(0, len(entries), 9):
        print("    " + " ".join(f"0x{entry:06x}," for entry in entries[i:i + 9]))
    print("};\n\n#endif")


main()
