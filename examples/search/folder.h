/*  folder.h - the text files of a folder and the folders in it. */
#ifndef SEARCH_FOLDER_H
#define SEARCH_FOLDER_H

#include "../common/files.h"
#include "passages.h"

/*  Adds a file, or all files below a folder in the order of their names. Hidden files, links out of
    the folder and what is not text (a NUL byte, no valid beginning in UTF-8) are passed over; they
    are counted in *skipped. */
bool folder_add(passages *p, const wordpiece *words, size_t tokens, const char *path,
                size_t *skipped, failure *why);

#endif
