#!/usr/bin/env python3
"""Writes unicode_tables.h: what BERT's tokenizer makes of a character before it looks for words.

    pip install unicodedata2==15.1.0 && python3 unicode_tables.py > unicode_tables.h

Classes: a code point where the class changes, << 2 | class. Folds: the lower case of the canonical
decomposition without its accents, where that is another character, as runs: first, count, step of
the characters, what the first becomes, step of what they become. Two characters become two more
runs. Hangul is left out: its decomposition is arithmetic.
"""
import unicodedata2 as unicode

WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
               0x2028, 0x2029, 0x202F, 0x205F, 0x3000}    # the White_Space property
CHINESE = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
           (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
HANGUL = range(0xAC00, 0xAC00 + 11172)
PART, SPACE, ALONE, DROPPED = range(4)


def char_class(code_point):
    category = unicode.category(chr(code_point))
    if code_point in (9, 10, 13) or category in ("Zs", "Zl", "Zp"):
        return SPACE
    if category in ("Cc", "Cf", "Co", "Cs", "Mn") or code_point == 0xFFFD:
        return DROPPED
    if any(first <= code_point <= last for first, last in CHINESE):
        return ALONE
    if category[0] == "P" or (33 <= code_point < 127 and not chr(code_point).isalnum()):
        return ALONE
    return SPACE if code_point in WHITE_SPACE else PART


def fold(code_point):
    letters = [c for c in unicode.normalize("NFD", chr(code_point)) if unicode.category(c) != "Mn"]
    return [ord(c) for c in "".join(c.lower() for c in letters)]


def runs(pairs):
    """Greedy runs of (from, to) with constant steps of at most 255 and 1."""
    out = []
    for first, to in pairs:
        if out:
            run = out[-1]
            step = first - run[0] - (run[1] - 1) * run[2]
            to_step = to - run[3] - (run[1] - 1) * run[4]
            if run[1] == 1 and 0 < step < 3 and 0 <= to_step < 3:
                run[1:3], run[4] = [2, step], to_step
                continue
            if run[1] > 1 and (step, to_step) == (run[2], run[4]):
                run[1] += 1
                continue
        out.append([first, 1, 0, to, 0])
    return out


def table(name, columns, rows):
    print(f"static const uint32_t {name}[{len(rows)}]{columns} = {{")
    text = [", ".join(f"0x{n:x}" for n in row) for row in rows]
    line = "   "
    for cell in text:
        cell = f" {{ {cell} }}," if columns else f" {cell},"
        if len(line) + len(cell) > 100:
            print(line)
            line = "   "
        line += cell
    print(line + "\n};\n")


def main():
    changes, current, pairs = [], None, [[], []]
    for code_point in range(0x110000):
        here = char_class(code_point)
        if here != current:
            changes.append([code_point << 2 | here])
            current = here
        folded = fold(code_point)
        if code_point in HANGUL or here == DROPPED or folded == [code_point] or len(folded) > 2:
            continue    # three: musical notes, an unknown word in any case
        for place, to in enumerate(folded):
            pairs[place].append((code_point, to))
    print(f"/*  Made by unicode_tables.py from Unicode {unicode.unidata_version}; do not edit. */")
    print("#ifndef SEARCH_UNICODE_TABLES_H\n#define SEARCH_UNICODE_TABLES_H\n")
    print("#include <stdint.h>\n")
    print("enum { CHAR_PART, CHAR_SPACE, CHAR_ALONE, CHAR_DROPPED };\n")
    table("char_class_changes", "", changes)
    print("/*  first, count, step, what the first becomes, step of what they become */")
    table("char_folds", "[5]", runs(pairs[0]))
    print("/*  where a second character follows: the same */")
    table("char_fold_seconds", "[5]", runs(pairs[1]))
    print("#endif")


main()
